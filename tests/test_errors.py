"""How a command ends: in words, and quietly where nobody reads on."""

import os
import subprocess
import sys

import pytest

from strokect.errors import DataError, run_stage

CODE = "from strokect.errors import run_stage; run_stage(lambda: print({}))"


@pytest.mark.parametrize("text", ["'one line'", "'x' * 10**6"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_traceback(text: str, unbuffered: str) -> None:
    """`make import … | head -0`: the pipe breaks at the end of the command, or in the midst of it."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", CODE.format(text)]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise BrokenPipeError("a database")

    with pytest.raises(BrokenPipeError, match="a database"):
        run_stage(main)


def test_an_error_on_purpose_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise DataError("no data")

    with pytest.raises(SystemExit, match="1"):
        run_stage(main)
    assert capsys.readouterr().err == "error: no data\n"
