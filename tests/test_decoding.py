"""Decoding in processes that can be killed: the same pictures and errors as without them, and nothing that a file does stays."""

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from decoder_stand_in import SECRET
from fakes import dicom_bytes, encode, grey_slice

from strokect.decode_messages import LENGTHS, Header, parse_error, parse_member, parse_picture, receive, send
from strokect.decoding import MAX_LOSSES, DecodePool
from strokect.errors import DeadlineError, ImageError, StrokectError
from strokect.hounsfield import BRAIN_ONLY, windows_to_json
from strokect.series import Member, read_series
from strokect.slices import decode
from strokect.window import view_png
from strokect.worker_pool import Worker

STAND_IN = "decoder_stand_in"
NEVER = float("inf")
COLOUR = np.dstack([grey_slice(48), grey_slice(48, seed=1), grey_slice(48, seed=2)])
DICOM = dicom_bytes(np.random.default_rng(0).integers(900, 1200, (40, 56)).astype(np.int16))

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    decoders = DecodePool(2, 20, 256)
    yield decoders
    decoders.close()


@pytest.fixture
def stand_in() -> Iterator[Callable[..., DecodePool]]:
    """Makes pools whose decoder does what its input says."""
    pools = []

    def make(workers: int = 1, timeout_s: float = 20, memory_mb: int = 100) -> DecodePool:
        pools.append(DecodePool(workers, timeout_s, memory_mb, STAND_IN))
        pools[-1].wait_ready()
        return pools[-1]

    yield make
    for made in pools:
        made.close()


def pids(pool: DecodePool) -> set[int]:
    return {worker.process.pid for worker in pool._workers}


def children() -> set[int]:
    """Processes of this one, dead ones that nobody has waited for included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


def traces() -> tuple[set[int], int, int]:
    """Children, threads and open descriptors of this process."""
    return children(), threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        call()
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        encode(grey_slice(100)[:, 10:90]),
        encode(grey_slice(96), "JPEG", quality=80),
        encode(COLOUR),
        encode(COLOUR, "JPEG"),
        DICOM,
    ],
)
def test_a_decoder_gives_the_same_picture_as_decoding_here(pool: DecodePool, data: bytes) -> None:
    expected, found = decode(data), pool.picture(data)
    assert np.array_equal(found.grey, expected.grey) and found.grey.dtype == np.uint8 and found.chroma == expected.chroma


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        encode(grey_slice())[:200],
        encode(np.zeros((16, 16), np.uint8)),
        encode(grey_slice().astype(np.uint16)),
        encode(np.zeros((3100, 3100), np.uint8)),
        DICOM[:300],
        dicom_bytes(np.zeros((40, 40), np.int16), Modality="MR"),
    ],
)
def test_and_the_same_error(pool: DecodePool, data: bytes) -> None:
    assert refusal(lambda: pool.picture(data)) == refusal(lambda: decode(data))
    assert not pool.losses


def test_a_view_comes_from_a_decoder_too(pool: DecodePool) -> None:
    assert pool.view(DICOM, 60, 280) == view_png(DICOM, 60, 280)
    assert refusal(lambda: pool.view(DICOM, 60, 0)) == refusal(lambda: view_png(DICOM, 60, 0))


def as_seen(members: list[Member]) -> list[object]:
    """Members without the hashes that differ between processes, and with pixels that can be compared."""
    geometries = [m.geometry and replace(m.geometry, series="", frame="") for m in members]
    pixels = [m.picture and (m.picture.grey.tolist(), m.picture.chroma) for m in members]
    return [(m.number, m.sha256, m.error, g, p) for m, g, p in zip(members, geometries, pixels, strict=True)]


def test_a_series_is_read_as_it_is_here(pool: DecodePool) -> None:
    place = {"ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "InstanceNumber": 4}
    slices = [dicom_bytes(np.full((40, 40), 1064 + n, np.int16), SeriesInstanceUID=f"1.2.{n % 2}", **place) for n in range(3)]
    files = [*slices, encode(grey_slice()), b"no picture", DICOM]
    found = pool.members(files, NEVER, 20)
    assert as_seen(found) == as_seen(read_series(files, 20)) and len(found) == 6
    first, second, third = (member.geometry.series for member in found[:3])  # type: ignore[union-attr]
    assert first == third != second
    assert refusal(lambda: pool.members(files, NEVER, 5)) == refusal(lambda: read_series(files, 5))


def test_a_series_that_outlives_its_decoder_is_still_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """UIDs are hashed with a salt, which the next decoder must share; large slices, so that the first is not done already."""
    slices = [dicom_bytes(np.full((512, 512), 1000 + n, np.int16), SeriesInstanceUID="1.2.3") for n in range(8)]
    pool = DecodePool(1, 20, 256)

    def parse_and_kill(header: Header, grey: bytearray) -> Member:
        if header["number"] == 1 and not pool.losses:
            os.kill(next(iter(pids(pool))), signal.SIGKILL)
        return parse_member(header, grey)

    monkeypatch.setattr("strokect.decoding.parse_member", parse_and_kill)
    try:
        found = pool.members(slices, NEVER, 9)
        assert pool.losses == {"died": 1} and as_seen(found) == as_seen(read_series(slices, 9))
        assert len({member.geometry.series for member in found if member.geometry}) == 1
    finally:
        pool.close()


def test_a_series_of_too_many_pixels_is_refused_before_it_fills_the_memory(
    pool: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strokect.series.MAX_SERIES_PIXELS", 2 * 64 * 64)
    assert len(pool.members([encode(grey_slice())] * 2, NEVER, 9)) == 2
    assert refusal(lambda: pool.members([encode(grey_slice())] * 3, NEVER, 9))[0] == "too_large_series"


@pytest.mark.parametrize("what", [b"spin", b"sleep 60"])
def test_a_decoder_that_is_too_slow_is_killed_and_the_next_file_is_read(stand_in: Callable[..., DecodePool], what: bytes) -> None:
    pool = stand_in(timeout_s=0.3)
    (slow,) = pids(pool)
    start = time.monotonic()
    assert refusal(lambda: pool.picture(what)) == ("decode_timeout", "decoding took longer than 0.3 s")
    assert time.monotonic() - start < 5 and slow not in children()
    assert pool.picture(b"1234").grey.shape == (4, 2) and pool.losses == {"timeout": 1}


def test_the_deadline_of_the_request_comes_before_the_time_of_a_decoder(stand_in: Callable[..., DecodePool]) -> None:
    pool = stand_in()
    with pytest.raises(DeadlineError):
        pool.picture(b"spin", time.monotonic() + 0.2)
    with pytest.raises(DeadlineError):
        pool.members([b"1", b"spin"], time.monotonic() + 0.5, 9)
    with pytest.raises(DeadlineError):
        pool.picture(b"1", time.monotonic() - 1)
    assert pool.losses == {"deadline": 2}  # the third had not begun
    assert pool.picture(b"1").grey.shape == (1, 2)


def test_a_file_that_takes_too_much_memory_is_unreadable_and_the_decoder_lives(stand_in: Callable[..., DecodePool]) -> None:
    pool = stand_in(memory_mb=100)
    before = pids(pool)
    pool.picture(b"take 80")
    assert refusal(lambda: pool.picture(b"take 120"))[0] == "unreadable_image"
    pool.picture(b"take 80")
    assert pids(pool) == before


def test_a_decoder_that_crashes_is_replaced(stand_in: Callable[..., DecodePool]) -> None:
    pool = stand_in()
    assert refusal(lambda: pool.picture(b"die"))[0] == "unreadable_image"
    assert pool.picture(b"12").grey.shape == (2, 2) and pool.losses == {"died": 2}  # one crash may be somebody else's doing


def test_a_decoder_outlives_the_signal_that_ends_the_service(pool: DecodePool) -> None:
    data = encode(grey_slice())
    pool.picture(data)
    before = pool.losses.copy()
    pool.wait_ready()
    decoders = pids(pool)
    for pid in decoders:
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.2)
    assert pool.picture(data).grey.shape == grey_slice().shape
    assert pids(pool) == decoders and pool.losses == before


def test_a_decoder_killed_from_outside_costs_no_answer(stand_in: Callable[..., DecodePool], tmp_path: Path) -> None:
    pool = stand_in(workers=2)
    for pid in pids(pool):
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    assert pool.picture(b"123").grey.shape == (3, 2)
    assert pool.picture(f"die_once {tmp_path / 'here'}".encode()).grey.shape[1] == 2
    assert sum(pool.losses.values()) == 3


def test_what_a_hostile_decoder_says_is_not_believed(stand_in: Callable[..., DecodePool]) -> None:
    pool = stand_in()
    assert refusal(lambda: pool.picture(b"lie"))[0] == "unreadable_image"
    assert pool.identity(b"PatientID 4711") == {"PatientID": b"4711"}
    for claim in (b"PatientComments 4711", b"PatientName " + b"x" * 1025):
        assert refusal(lambda claim=claim: pool.identity(claim))[0] == "unreadable_image"
    for value in (["Code", "text"], ["code", "x" * 500], ["code"], [1, 2], None):
        with pytest.raises((ValueError, TypeError)):
            parse_error(value)
    for shape, chroma in (([4, 5], 0), ([0, 0], 0), ([-1, 4], 0), ([4], 0), ([2, 8], 256), ([4.0, 4], 0)):
        with pytest.raises((ValueError, TypeError)):
            parse_picture({"shape": shape, "chroma": chroma, "windows": 0}, bytearray(16))
    for count in (1, 2, -1, 3.0, True, None):
        with pytest.raises((ValueError, TypeError)):
            parse_picture({"shape": [4, 4], "chroma": 0, "windows": count}, bytearray(16))


@pytest.mark.parametrize(
    "message",
    [LENGTHS.pack(2**30, 0), LENGTHS.pack(2, 101) + b"{}", LENGTHS.pack(2, 0) + b"[]", LENGTHS.pack(1, 0) + b"{", b"x"],
)
def test_a_message_that_makes_no_sense_is_an_error_at_once(message: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(message)
        with pytest.raises((ValueError, EOFError)):
            receive(ours, time.monotonic() + 5, 100)


def test_in_a_series_a_bad_file_costs_its_own_place_only(stand_in: Callable[..., DecodePool]) -> None:
    pool = stand_in(timeout_s=0.6)
    found = pool.members([b"1", b"sleep 9", b"333", b"die", b"55555"], NEVER, 9)
    assert [member.error and member.error[0] for member in found] == [None, "decode_timeout", None, "unreadable_image", None]
    assert [member.picture.grey.shape[0] for member in found if member.picture] == [1, 3, 5]
    assert [member.number for member in found] == [0, 1, 2, 3, 4] and len({member.sha256 for member in found[1::2]}) == 2
    assert refusal(lambda: pool.members([b"sleep 9"] * (MAX_LOSSES + 1), NEVER, 9))[0] == "decode_timeout"
    assert pool.picture(b"1").grey.shape == (1, 2)


def test_text_of_a_library_goes_nowhere(
    stand_in: Callable[..., DecodePool], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    pool = stand_in(timeout_s=5)
    with caplog.at_level(logging.DEBUG):
        told = refusal(lambda: pool.picture(b"raise"))
        pool.picture(b"shout")
        refusal(lambda: pool.picture(f"write {tmp_path / SECRET}".encode()))
        refusal(lambda: pool.picture(b"die"))
    shown = capfd.readouterr()
    assert SECRET not in str((told, shown, caplog.text)) and "a decoder was lost: died (2 since the start)" in caplog.text
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0


@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_forced_timeouts_leave_nothing(times: int) -> None:
    before = traces()
    pool = DecodePool(2, 0.05, 100, STAND_IN)
    pool.wait_ready()
    _, threads, descriptors = traces()
    with ThreadPoolExecutor(2) as clients:
        told = list(clients.map(lambda _: refusal(lambda: pool.picture(b"spin"))[0], range(times)))
    assert told == ["decode_timeout"] * times and pool.losses == {"timeout": times}
    assert traces() == (pids(pool) | before[0], threads, descriptors) and len(pids(pool)) == 2
    pool.close()
    assert traces() == before


def test_two_files_are_decoded_at_once_and_a_third_waits_no_longer_than_its_deadline(
    stand_in: Callable[..., DecodePool],
) -> None:
    pool = stand_in(workers=2)
    with ThreadPoolExecutor(2) as clients:
        list(clients.map(pool.picture, [b"1", b"1"]))  # both are ready now
        start = time.monotonic()
        slow = [clients.submit(pool.picture, b"sleep 1.5") for _ in range(2)]
        time.sleep(0.3)
        with pytest.raises(DeadlineError):
            pool.picture(b"1", time.monotonic() + 0.2)
        assert time.monotonic() - start < 1.4
        for each in slow:
            each.result()
        assert time.monotonic() - start < 2.9
    assert not pool.losses


def test_many_threads_get_their_own_pictures(stand_in: Callable[..., DecodePool]) -> None:
    pool = stand_in(workers=2)
    sizes = [1 + n % 7 for n in range(100)]
    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda n: pool.picture(b"x" * n).grey.shape[0], sizes))
    assert found == sizes


def test_closing_ends_all_decoders_also_those_in_use() -> None:
    before = traces()
    pool = DecodePool(2, 20, 100, STAND_IN)
    with ThreadPoolExecutor(3) as clients:
        waiting = [clients.submit(pool.picture, b"sleep 60") for _ in range(3)]
        time.sleep(1)
        start = time.monotonic()
        pool.close()
        for each in waiting:
            with pytest.raises(StrokectError):
                each.result(5)
    assert time.monotonic() - start < 3 and not pool.losses
    with pytest.raises(StrokectError):
        pool.picture(b"1")
    assert traces() == before


def test_decoders_that_do_not_start_are_an_error_and_not_a_wait() -> None:
    pool = DecodePool(2, 20, 100, "strokect.no_such_module")
    try:
        with pytest.raises(StrokectError, match="do not start"):
            pool.wait_ready(time.monotonic() + 30)
        assert pool.losses == {"start": 3}
    finally:
        pool.close()


def test_a_decoder_has_limits_and_nothing_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROKECT_TOKEN", SECRET)
    pool = DecodePool(1, 20, 100)
    try:
        pool.wait_ready()
        (pid,) = pids(pool)
        process = Path(f"/proc/{pid}")
        limits = {line[:25].strip(): line[25:].split()[:2] for line in (process / "limits").read_text().splitlines()}
        assert limits["Max core file size"] == limits["Max file size"] == ["0", "0"]
        assert limits["Max open files"] == ["16", "16"]
        size = int(next(line.split()[1] for line in (process / "status").open() if line.startswith("VmSize"))) * 1024
        assert 90 * 2**20 < int(limits["Max address space"][1]) - size <= 110 * 2**20
        assert SECRET not in (process / "environ").read_text() and (process / "cwd").readlink() == Path("/")
        targets = {str(link.readlink()) for link in (process / "fd").iterdir()}
        assert {target.split(":")[0] for target in targets} == {"/dev/null", "socket", "pipe"} and len(targets) == 3
        assert len(list((process / "task").iterdir())) == 1
    finally:
        pool.close()


@pytest.mark.parametrize("busy", [True, False])
def test_no_decoder_outlives_the_service(busy: bool) -> None:
    code = f"""
import os, threading, time
from strokect.decoding import DecodePool
pool = DecodePool(2, 60, 100, {STAND_IN!r})
pool.wait_ready()
if {busy}:
    for _ in range(2):
        threading.Thread(target=pool.picture, args=(b"spin",)).start()
    time.sleep(1.5)
print(*(worker.process.pid for worker in pool._workers), flush=True)
time.sleep(60)
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as service:
        assert service.stdout is not None
        left = [int(pid) for pid in service.stdout.readline().split()]
        service.kill()
    assert len(left) == 2
    deadline = time.monotonic() + 5
    while any(_runs(pid) for pid in left) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_runs(pid) for pid in left)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_the_kernel_ends_a_decoder_whose_parent_does_not() -> None:
    worker = Worker([STAND_IN, "0.1", "100"])
    try:
        worker.await_ready(time.monotonic() + 30)
        send(worker.channel, {"windows": windows_to_json(BRAIN_ONLY)}, b"spin")
        assert worker.process.wait(60) == -signal.SIGXCPU
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > 2
    finally:
        worker.kill()
