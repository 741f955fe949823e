"""prepare at size: what a plain loop gives, reading only what changed, going on after a kill, in little memory."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from counted_reading import counted, params_of_folder
from numpy.typing import NDArray
from PIL import Image

from stages import prepare as stage
from strokect import npy_rows, packing
from strokect.clusters import clusters
from strokect.errors import DataError
from strokect.files import sha256_bytes
from strokect.manifest import NOT_VERIFIABLE, load_prepared
from strokect.pixel_cache import lasting, stamp
from strokect.reporting import notes
from strokect.sources import Pixels, Row, Source

SIZE = 48
PATIENTS = {"stroke": "ABC", "normal": "DEF"}
PER_PATIENT = 30


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (50, 60), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def old(path: Path) -> None:
    """As if written long ago: with the clock of the test, for ctime cannot be set."""
    os.utime(path, ns=(10**18, 10**18))


class Desk:
    """A folder of raw slices, and prepare on it with a count of what it decoded."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.raw, self.out, self.cache, self.log = folder / "raw", folder / "out", folder / "cache", folder / "log"
        self.params = params_of_folder(folder)
        self.said: list[str] = []
        for name, patients in PATIENTS.items():
            for patient in patients:
                for i in range(PER_PATIENT):
                    draw(self.raw / name / f"{patient}_{i}.png", seed=ord(patient) * 1000 + i)
        plain = stage.read_source
        self.wrap: Callable[[Source], Source] = lambda source: source
        monkeypatch.setattr(stage, "read_source", lambda p, root: counted(self.wrap(plain(p, root)), self.log))

    def prepare(self, **changes: Any) -> list[str]:
        """Run it; returns the files that were decoded, sorted."""
        self.log.unlink(missing_ok=True)
        params = dataclasses.replace(self.params, **changes)
        stage.prepare(params, self.raw, self.out, self.cache, self.said.append)
        return self.decoded()

    def decoded(self) -> list[str]:
        return sorted(self.log.read_text().split()) if self.log.exists() else []

    def check(self) -> None:
        """What lies in `out` is what a plain loop over the folder gives, and what np.save would have written of it."""
        manifest = pd.read_csv(self.out / "manifest.csv")
        assert sorted(manifest["file"]) == sorted(p.relative_to(self.raw).as_posix() for p in self.raw.rglob("*.png"))
        expected = np.stack([plain_slice(self.raw / file) for file in manifest["file"]])[:, None]
        assert list(manifest["sha256"]) == [sha256_bytes((self.raw / file).read_bytes()) for file in manifest["file"]]
        np.save(self.out.parent / "expected.npy", expected)
        assert (self.out / "images.npy").read_bytes() == (self.out.parent / "expected.npy").read_bytes()

    def done(self) -> Path:
        (found,) = self.cache.glob("folder-*/done")
        return found


def plain_slice(path: Path) -> NDArray[np.uint8]:
    """Pillow alone: black borders around 60×50, then bilinear."""
    square = Image.new("L", (60, 60))
    square.paste(Image.open(path), (0, 5))
    return np.array(square.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


@pytest.fixture
def settled(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Prepared once, from files that were not new: the stamps of all rows may be trusted."""
    later = time.time_ns
    monkeypatch.setattr("strokect.packing.time.time_ns", lambda: later() + 10 * 10**9)
    assert len(desk.prepare()) == 6 * PER_PATIENT
    return desk


def test_arrays_are_those_of_a_plain_loop_and_a_second_run_decodes_nothing(desk: Desk) -> None:
    assert len(desk.prepare()) == 6 * PER_PATIENT
    desk.check()
    first = {path.name: path.read_bytes() for path in desk.out.iterdir()}
    assert desk.prepare() == []
    assert {path.name: path.read_bytes() for path in desk.out.iterdir()} == first
    assert "decoded 0 slices; 180 as the last run left them" in desk.said[-1]


def test_without_a_cache_nothing_stays_behind(desk: Desk) -> None:
    stage.prepare(desk.params, desk.raw, desk.out)
    desk.check()
    assert sorted(path.name for path in desk.out.iterdir()) == ["cohort.json", "images.npy", "manifest.csv", "masks.npy"]
    assert not desk.cache.exists()


def test_an_added_patient_is_all_that_is_decoded(settled: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    new = [settled.raw / "normal" / f"AA_{i}.png" for i in range(4)]  # before D: every later row moves
    for i, path in enumerate(new):
        draw(path, seed=i)
    (settled.raw / "stroke/B_7.png").unlink()
    opened: list[Path] = []
    hashed = packing.sha256_file
    monkeypatch.setattr("strokect.pixel_cache.sha256_file", lambda path: opened.append(path) or hashed(path))
    assert settled.prepare() == sorted(path.relative_to(settled.raw).as_posix() for path in new)
    assert opened == []  # of the others not even the bytes were looked at
    settled.check()


def test_a_file_replaced_by_one_of_equal_size_and_date_is_noticed(settled: Desk) -> None:
    victim = settled.raw / "stroke/A_3.png"
    before = victim.stat()
    content = bytearray(victim.read_bytes())
    Image.fromarray(np.full((50, 60), 7, np.uint8)).save(victim)
    padded = victim.read_bytes() + bytes(before.st_size - victim.stat().st_size)
    assert padded != bytes(content)
    victim.write_bytes(padded)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = victim.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert settled.prepare() == ["stroke/A_3.png"]
    settled.check()


def test_new_links_and_dates_of_the_same_bytes_are_not_decoded_again(settled: Desk) -> None:
    shutil.copytree(settled.raw, settled.raw.with_name("copy"))
    shutil.rmtree(settled.raw)
    settled.raw.with_name("copy").rename(settled.raw)
    for path in settled.raw.rglob("*.png"):
        old(path)
    assert settled.prepare() == []
    settled.check()


def test_a_file_as_young_as_the_clock_is_exact_is_compared_by_its_bytes(desk: Desk) -> None:
    seen = stamp(desk.raw / "stroke/A_3.png")
    assert seen
    assert lasting(seen, seen[2] + 10**9) is None
    assert lasting(seen, seen[2] - 10**9) is None  # a clock that lags behind that of the file server
    assert lasting(seen, seen[2] + 3 * 10**9) == seen
    desk.prepare()
    lines = [json.loads(line) for line in (desk.done() / "index.jsonl").read_text().splitlines()]
    assert [line["stamp"] for line in lines] == [None] * 180  # all written a moment ago
    assert desk.prepare() == []


@pytest.mark.parametrize("rows_before_the_kill", [90, 150])
def test_killed_and_started_again_it_goes_on(desk: Desk, rows_before_the_kill: int) -> None:
    places = [str(path) for path in (desk.raw, desk.out, desk.cache, desk.log)]
    command = [sys.executable, str(ROOT / "tests/counted_reading.py"), *places, "0.03"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    while len(desk.decoded()) < rows_before_the_kill:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = desk.decoded()
    assert rows_before_the_kill <= len(first) < 180
    assert not desk.out.exists()
    (index,) = desk.cache.glob("folder-*/added/index.jsonl")
    kept = [json.loads(line)["file"] for line in index.read_text().splitlines()]
    assert len(kept) == rows_before_the_kill // 64 * 64
    second = desk.prepare()
    assert sorted(kept + second) == sorted(set(kept) | set(second))
    assert len(kept) + len(second) == 180
    desk.check()
    assert not list(desk.out.parent.glob(".out*"))
    assert [path.name for path in desk.done().parent.iterdir()] == ["done"]


def test_a_line_cut_short_costs_that_row_only(desk: Desk) -> None:
    """What a kill between two writes, or a full disk, can leave: more pixels than lines, and half a line."""
    broken = desk.raw / "normal/F_29.png"
    content = broken.read_bytes()
    broken.write_bytes(b"")
    with pytest.raises(DataError, match="1 file"):
        desk.prepare()
    (index,) = desk.cache.glob("folder-*/added/index.jsonl")
    index.write_text(index.read_text()[:-40])
    broken.write_bytes(content)
    assert desk.prepare() == ["normal/F_28.png", "normal/F_29.png"]
    desk.check()


def test_damaged_pixels_and_lines_of_the_cache_are_decoded_again(settled: Desk) -> None:
    with open(settled.done() / "images.npy", "r+b") as stream:
        stream.seek(npy_rows.HEADER_BYTES + 5 * SIZE * SIZE + 100)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))
    index = settled.done() / "index.jsonl"
    lines = index.read_text().splitlines()
    lines[9] = json.dumps(json.loads(lines[9]) | {"width": 61})
    index.write_text("\n".join(lines) + "\n")
    names = sorted(json.loads(lines[i])["file"] for i in (5, 9))
    assert settled.prepare() == names
    assert "2 of them because the cache was damaged" in settled.said[-1]
    settled.check()


@pytest.mark.parametrize("ruin", ["cut images", "no images", "garbage images", "garbage index", "empty index", "no index"])
def test_a_ruined_cache_is_not_believed(settled: Desk, ruin: str) -> None:
    how, name = ruin.split()
    path = settled.done() / {"images": "images.npy", "index": "index.jsonl"}[name]
    data = path.read_bytes()
    path.unlink()
    if how != "no":
        ruined = {"cut": data[: len(data) // 2], "garbage": b"\x93NUMPY\x01\x00" + b"\xff" * len(data), "empty": b""}
        path.write_bytes(ruined[how])
    again = settled.prepare()
    assert len(again) == 180 if how != "cut" else 0 < len(again) < 180
    settled.check()


def test_a_cut_array_is_not_passed_on_even_if_all_that_is_asked_for_is_in_it(settled: Desk) -> None:
    os.truncate(settled.done() / "images.npy", npy_rows.HEADER_BYTES + 150 * SIZE * SIZE)
    for line in (settled.done() / "index.jsonl").read_text().splitlines()[150:]:
        (settled.raw / json.loads(line)["file"]).unlink()
    assert settled.prepare() == []
    settled.check()


def test_unreadable_files_are_all_counted_and_once_mended_all_that_is_read(settled: Desk) -> None:
    victims = sorted((settled.raw / "normal").glob("*.png"))[:60]
    kept = {path: path.read_bytes() for path in victims}
    for path in victims:
        path.write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        settled.prepare()
    message = str(caught.value)
    assert "60 file(s) cannot be used and data.max_unreadable is 0" in message
    assert sum(str(path) in message for path in victims) == packing.MAX_LISTED
    assert "… and 10 more" in message
    assert len(settled.prepare(max_unreadable=60)) == 60
    assert len(load_prepared(settled.out).images) == 120
    for path, content in kept.items():
        path.write_bytes(content)
    assert len(settled.prepare()) == 60
    settled.check()


def test_a_file_that_changes_meanwhile_stops_the_run_and_costs_one_read(desk: Desk) -> None:
    victim = desk.raw / "stroke/A_1.png"

    def meddling(source: Source) -> Source:
        def read(row: Row) -> Pixels:
            if row.file == "normal/F_10.png":
                draw(victim, seed=99)
            return source.read(row)

        return dataclasses.replace(source, read=read)

    desk.wrap = meddling
    with pytest.raises(DataError, match=r"1 file\(s\) changed while they were read:\n.*stroke/A_1\.png"):
        desk.prepare()
    assert not desk.out.exists()
    desk.wrap = lambda source: source
    assert desk.prepare() == ["stroke/A_1.png"]
    desk.check()


def test_two_at_once_are_refused(desk: Desk) -> None:
    with (
        packing.pixel_cache(desk.cache, "folder", "0"),
        pytest.raises(DataError, match="another `prepare` is running"),
    ):
        desk.prepare()


def test_a_full_disk_is_an_error_with_the_path(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(npy_rows.os, "posix_fallocate", full)
    number = errno.ENOSPC
    with pytest.raises(DataError, match=r"images\.npy: no room .*No space left"):
        desk.prepare()
    assert not desk.out.exists()
    number = errno.EOPNOTSUPP  # NFS and the like: go on without the promise
    desk.prepare()
    desk.check()


def test_other_params_start_anew_and_their_cache_replaces_the_old_one(settled: Desk) -> None:
    before = settled.done()
    (settled.cache / "manifest-0123").mkdir()
    assert settled.prepare(labels="folder", max_unreadable=3) == []  # names and counts only
    assert settled.done() == before
    assert len(settled.prepare(image_size=32)) == 180
    assert settled.done() != before
    assert (settled.cache / "manifest-0123").is_dir()


def test_the_key_is_of_all_code_that_can_shape_a_pixel(desk: Desk) -> None:
    source = stage.read_source(desk.params, desk.raw)
    reached = {path.stem for path in packing._code(ROOT / "strokect/sources.py")}
    assert {"sources", "slices", "images", "dicom"} <= reached  # dicom is imported inside a function
    assert not {"packing", "splits", "training"} & reached
    key = packing.cache_key(desk.params, source)
    assert packing.cache_key(dataclasses.replace(desk.params, labels="folder"), source) == key
    assert packing.cache_key(dataclasses.replace(desk.params, image_size=32), source) != key


def picture(seed: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Smooth noise, so that a perceptual hash has something to say."""
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (12, 12), np.uint8))
    return np.array(small.resize((size, size), Image.Resampling.BICUBIC))


def made_up(root: Path, planes: list[NDArray[np.uint8]], masks: bool, patient_ids: bool = True) -> Source:
    """A source of .bin files that hold (C, S, S); label 1 for the first half."""
    rows = []
    for i, plane in enumerate(planes):
        root.mkdir(exist_ok=True)
        (root / f"{i:03d}.bin").write_bytes(plane.tobytes())
        rows.append(Row(f"{i:03d}.bin", f"p{i}", 0, int(i < len(planes) / 2), {"site": f"s{i}"}))

    def read(row: Row) -> Pixels:
        data = (root / row.file).read_bytes()
        image = np.frombuffer(data, np.uint8).reshape(planes[0].shape)
        return Pixels(image, sha256_bytes(data), SIZE, SIZE, (image[0] > 99).astype(np.uint8) if masks else None)

    return Source(rows, read, lambda row: None, "x", "slice", patient_ids=patient_ids)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("masks", [True, False])
def test_three_windows_and_masks_are_kept_like_any_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masks: bool) -> None:
    planes = [np.random.default_rng(i).integers(0, 255, (3, SIZE, SIZE), np.uint8) for i in range(70)]
    params = params_of_folder(tmp_path)
    log = tmp_path / "log"
    for run, wanted in ((planes[:-1], 69), (planes, 1)):
        log.unlink(missing_ok=True)
        source = counted(made_up(tmp_path / "raw", run, masks), log)
        monkeypatch.setattr(stage, "read_source", lambda p, root, source=source: source)
        cohort = stage.prepare(params, tmp_path / "raw", tmp_path / "out", tmp_path / "cache")
        prepared = load_prepared(tmp_path / "out")
        np.testing.assert_array_equal(prepared.images, np.stack(run))
        found = np.load(tmp_path / "out/masks.npy")
        assert found.shape == ((len(run), SIZE, SIZE) if masks else (0, SIZE, SIZE))
        if masks:
            np.testing.assert_array_equal(found, np.stack(run)[:, 0] > 99)
        assert len(set(log.read_text().split())) == wanted
        assert cohort["channels"] == 3
        assert list(prepared.manifest["site"]) == [f"s{i}" for i in range(len(run))]


def test_without_patient_ids_near_duplicates_are_the_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planes = [picture(i)[None] for i in range(8)]
    planes[5] = np.clip(planes[1].astype(int) + 3, 0, 255).astype(np.uint8)
    planes[7] = planes[5].copy()
    source = made_up(tmp_path / "raw", planes, masks=False, patient_ids=False)
    monkeypatch.setattr(stage, "read_source", lambda p, root: source)
    cohort = stage.prepare(params_of_folder(tmp_path), tmp_path / "raw", tmp_path / "out", tmp_path / "cache")
    manifest = load_prepared(tmp_path / "out").manifest
    names = [f"cluster-{i:05d}" for i in (0, 1, 2, 3, 4, 1, 5, 1)]
    assert list(manifest["patient"]) == names
    assert list(manifest["slice"]) == [0, 0, 0, 0, 0, 1, 0, 2]
    assert (cohort["patient_level_verifiable"], cohort["n_patients"]) == (False, 6)
    sidecar, audit = {"group_by": "patient"}, {"allowed": []}
    assert NOT_VERIFIABLE in notes("oof", cohort, sidecar, audit)
    assert NOT_VERIFIABLE not in notes("oof", cohort | {"patient_level_verifiable": True}, sidecar, audit)
    shuffled = dataclasses.replace(params_of_folder(tmp_path), labels="shuffled")
    stage.prepare(shuffled, tmp_path / "raw", tmp_path / "out", tmp_path / "cache")
    labels = load_prepared(tmp_path / "out").manifest.groupby("patient")["label"]
    assert set(labels.nunique()) == {1}  # slice 1 was positive and its copies 5 and 7 negative
    assert labels.first().sum() == 4


def test_clusters_are_what_links_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strokect.clusters.linked_rows", lambda images: np.array([[1, 4], [4, 11], [0, 9]]))
    found = clusters(np.zeros((12, SIZE, SIZE), np.uint8))
    assert list(found) == [0, 1, 2, 3, 1, 4, 5, 6, 7, 0, 8, 1]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """20,000 slices of 128 px are 328 MB; the process may take a quarter of that more than for 200."""
    peaks = []
    for n in (100, 10_000):
        raw = tmp_path / f"raw{n}"
        for name in PATIENTS:
            draw(raw / name / "P0_0.png", seed=0)
            for i in range(1, n):
                os.link(raw / name / "P0_0.png", raw / name / f"P{i // 40}{name[0]}_{i}.png")
        code = (
            "from pathlib import Path; from counted_reading import params_of_folder; from benchmarks.prepare import peak_mb\n"
            "from stages.prepare import prepare\n"
            f"raw, out = Path({str(raw)!r}), Path({str(tmp_path)!r})\n"
            "params = params_of_folder(out, image_size=128)\n"
            "prepare(params, raw, out / 'out', out / 'cache')\n"
            "print(peak_mb())"
        )
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
        peaks.append(float(done.stdout.split()[-1]))
        assert len(load_prepared(tmp_path / "out").images) == 2 * n
    assert peaks[1] - peaks[0] < 82, peaks
