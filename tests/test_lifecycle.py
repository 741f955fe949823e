"""What a process does beside its answers: here, that freed memory goes back to the system."""

import os
import platform
import subprocess
import sys

import pytest
from conftest import ROOT

# Blocks of 100 kB, below every threshold, with a small one that stays between each two of them.
CODE = """
from pathlib import Path
from strokect.lifecycle import return_memory
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1])
before = resident()
kept, dropped = [], []
for _ in range(1000):
    dropped.append(bytearray(100_000))
    kept.append(bytearray(1000))
dropped.clear()
held = resident() - before
return_memory()
print(held, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_freed_memory_between_what_is_kept_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    held, left = (int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20 for pages in done.stdout.split())
    assert held > 80 and left < 20
