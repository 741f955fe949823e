"""stages.external: a frozen release on a site's slices, judged as the service does, fitted to nothing, resumed after a kill."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import workspace
from fakes import TARGET, encode, fake_release
from PIL import Image
from site_fixtures import hashes, site_params

from examples.make_site import site_slices, write_site
from stages import external as stage
from strokect.errors import DataError, NotEstimableError, ParamsError
from strokect.external import choose_rows
from strokect.files import read_json, sha256_bytes, write_json
from strokect.journal import Journal
from strokect.judge import Judge
from strokect.manifest import COLUMNS, Prepared
from strokect.overlap import Joined, find_overlap
from strokect.phantom import make_cohort, window
from strokect.predictor import Predictor
from strokect.slices import load_slice
from strokect.sources import Row

SLICES = site_slices(patients=8, slices=4, seed=5, size=64, brighter=0)
OUT = Path("reports/external/folder")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a release, and the site's files under data/raw/folder."""
    folder = tmp_path_factory.mktemp("site")
    shutil.move(fake_release(folder / "fake"), folder / "models" / "release")
    write_site(folder / "data/raw/folder", SLICES)
    return folder


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it to work in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    with workspace(tmp_path, site_params(TARGET)) as folder:
        yield folder


def run(*arguments: str) -> dict[str, Any]:
    stage.main(["--source", "folder", *arguments])
    result = read_json(OUT / "external.json")
    assert isinstance(result, dict)
    return result


def scores() -> pd.DataFrame:
    return pd.read_csv(OUT / "scores.csv", dtype={"patient": str}, keep_default_na=False)


def test_every_slice_is_judged_as_the_service_does_and_the_release_is_not_touched(site: Path) -> None:
    before = hashes(site / "models/release")
    metrics = run()
    assert hashes(site / "models/release") == before
    predictor, table = Predictor(site / "models/release"), scores().set_index("file")
    assert len(table) == len(SLICES) == metrics["n_slices"]
    for name, label, data in SLICES:
        row, answer = table.loc[f"{'stroke' if label else 'normal'}/{name}"], predictor.predict(data)
        assert (row["probability"], row["decision"], row["label"]) == (pytest.approx(answer.probability), answer.decision, label)
        assert row["mc_std"] == pytest.approx(answer.uncertainty.mc_std)
    assert metrics["part"] == "external" and metrics["slice"]["threshold"] == predictor.release.policy.threshold
    assert metrics["release"]["version"] == predictor.release.version
    assert metrics["policy"]["counts"]["normal"]["normal"] + metrics["policy"]["counts"]["normal"]["stroke"] > 0
    page = (OUT / "external.html").read_text()
    assert "p000" not in (OUT / "external.json").read_text() + (OUT / "journal.jsonl").read_text() + page
    assert f"Release {metrics['release']['version']} on external data" in page and "http" not in page and "src=" not in page


def test_labels_change_no_answer(site: Path) -> None:
    run()
    first = scores()
    for a, b in (("stroke", "swap"), ("normal", "stroke"), ("swap", "normal")):
        (site / "data/raw/folder" / a).rename(site / "data/raw/folder" / b)
    run()
    second = scores()
    said = [t.assign(file=t["file"].str.split("/").str[1]).set_index("file").sort_index() for t in (first, second)]
    for column in ("probability", "decision", "gate_score", "mc_std"):
        assert said[0][column].tolist() == said[1][column].tolist()
    assert (said[0]["label"] == 1 - said[1]["label"]).all()


def prepared_of(files: list[tuple[str, int, bytes]]) -> None:
    """data/prepared of a cohort that the fake release claims to be made from."""
    folder = Path("data/prepared")
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.stack([load_slice(data, 32).pixels for _, _, data in files]))
    rows = [(name, name[:4], 0, label, sha256_bytes(data), "folder", 64, 64) for name, label, data in files]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "manifest.csv", index=False)
    write_json(folder / "cohort.json", {"data_sha256": "d" * 64})


def test_pictures_that_the_release_was_made_from_are_caught(site: Path) -> None:
    grey = np.asarray(Image.open(io.BytesIO(SLICES[9][2]))).astype(int)
    brighter = encode(np.clip(grey + 2, 0, 255).astype(np.uint8))
    other = site_slices(patients=1, slices=1, seed=90, size=64, brighter=0)[0][2]
    prepared_of([SLICES[0], ("p9_0.png", 0, other), ("p9_1.png", 1, brighter)])
    with pytest.raises(DataError, match=r"1 of 32 slices are byte .* 1 more are altered copies \(2 of 8 pat.*no external"):
        run()
    assert not (OUT / "external.json").exists()
    metrics = run("--allow-overlap")
    assert (metrics["overlap"]["identical"], metrics["overlap"]["near_duplicates"]) == (1, 1)
    assert metrics["notes"][0].startswith("NOT external: 1 slices are identical")


def test_a_cohort_that_is_not_that_of_the_release_leaves_overlap_unchecked_and_says_so(site: Path) -> None:
    metrics = run()
    assert metrics["overlap"] == {"checked": False} and "NOT checked" in metrics["notes"][0]


def test_altered_copies_of_training_slices_are_no_external_data() -> None:
    heads = [window(piece.hu) for piece in make_cohort(patients=6, slices=4, size=96, seed=11) if piece.slice in (1, 2)]
    training, other = np.stack(heads[:8]), heads[8:]
    turned = np.asarray(Image.fromarray(heads[4]).rotate(3, Image.Resampling.BICUBIC))
    images = np.stack([heads[0][:, ::-1], turned, heads[6], *other])
    names = np.array([f"e{i}" for i in range(len(images))])
    manifest = pd.DataFrame({"sha256": [*(f"t{i}" for i in range(7)), "e5"]})
    found = find_overlap(names, images, names, Prepared(training[:, None], manifest, {}))
    assert (found["near_duplicates"], found["identical"], found["patients"], found["slices"]) == (3, 1, 4, 7)
    untouched = np.stack(other)
    assert find_overlap(names[:4], untouched, names[:4], Prepared(training[:, None], manifest, {}))["near_duplicates"] == 0


def test_two_arrays_read_as_one() -> None:
    whole = np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2)
    for n in (0, 3, 7):
        joined = Joined(whole[:n], whole[n:])
        assert (len(joined), joined.shape, joined.ndim) == (7, (7, 2, 2), 3)
        assert all(np.array_equal(joined[i], whole[i]) for i in range(7))
        for start, stop in ((0, 7), (1, 3), (2, 5), (4, 6), (5, 99), (3, 3)):
            assert np.array_equal(joined[start:stop], whole[start:stop])


def test_a_killed_run_goes_on_where_it_was(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run()
    table = scores()
    shutil.rmtree(OUT)
    calls, examine = [], Judge.examine

    def interrupted(self: Judge, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return examine(self, *arguments, **options)

    monkeypatch.setattr(Judge, "examine", interrupted)
    # The self-test of a release examines a slice, too.
    with pytest.raises(KeyboardInterrupt):
        run()
    journal = OUT / "journal.jsonl"
    journal.write_text(journal.read_text() + '{"schema": 1, "release": "half a li')
    done = len(calls) - 2  # not the self-test's slice, and not the one that was interrupted
    calls[:] = [1] * 1000
    assert run() == whole and scores().equals(table)
    assert len(calls) - 1000 == len(SLICES) - done + 1


def test_a_journal_belongs_to_one_release(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", "a") as journal:
        journal.add("judged", "0" * 64, {"x": float("inf"), "y": float("nan")})
    with Journal(tmp_path / "j", "b") as journal:
        assert journal.get("judged", "0" * 64) is None
    (tmp_path / "j").write_text((tmp_path / "j").read_text() + "[1]\nnull\n{}\nhalf")
    with Journal(tmp_path / "j", "a") as journal:
        found = journal.get("judged", "0" * 64)
        assert found and found["x"] == float("inf") and np.isnan(found["y"])
        assert journal.get("surveyed", "0" * 64) is None
        journal.add("surveyed", "1" * 64, {})
    assert json.loads((tmp_path / "j").read_text().splitlines()[-1])["kind"] == "surveyed"


def test_unreadable_files_are_named_or_counted(site: Path) -> None:
    (site / "data/raw/folder/normal/p000_99.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"1 file\(s\) cannot be used and data.max_unreadable is 0:\n  normal/p000_99.png"):
        run()
    params = site_params(TARGET)
    params["data"]["max_unreadable"] = 1
    (site / "other.yaml").write_text(yaml.safe_dump(params))
    metrics = run("--params", "other.yaml")
    assert metrics["unreadable"] == {"unreadable_image": 1} and metrics["n_slices"] == len(SLICES)


def test_a_colour_picture_is_rejected_as_the_service_rejects_it_and_not_left_out(site: Path) -> None:
    colour = np.stack([np.asarray(Image.open(next((site / "data/raw/folder/normal").iterdir())))] * 3, axis=-1).copy()
    colour[20:30, 20:30] = (255, 0, 0)
    (site / "data/raw/folder/normal/p000_99.png").write_bytes(encode(colour))
    metrics = run()
    assert metrics["policy"]["counts"]["normal"]["reject"] == 1
    assert metrics["shift"]["rates"]["reject_by_reason"]["colour"]["external"]["value"] == pytest.approx(1 / 33)


def test_a_model_without_a_result_is_no_answer(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examine, seen = Judge.examine, []

    def broken(self: Judge, *arguments: Any, **options: Any) -> Any:
        seen.append(1)
        found = examine(self, *arguments, **options)
        if len(seen) == 5:
            found.evidence.logits[0] = np.nan
            found.evidence.probabilities[0] = np.nan
        return found

    monkeypatch.setattr(Judge, "examine", broken)
    with pytest.raises(DataError, match=r"1 file\(s\) cannot be used .*\n.*no result"):
        run()


def test_another_question_needs_a_reason(site: Path) -> None:
    (site / "params.yaml").write_text(yaml.safe_dump(site_params("stroke on this slice")))
    with pytest.raises(DataError, match="the labels of this source say 'stroke on this slice'"):
        run()
    with pytest.raises(DataError, match="--target-differs"):
        run("--target-differs", " ")
    metrics = run("--target-differs", "all of them are haemorrhages")
    assert metrics["target"] == TARGET and metrics["target_differs"]["labels"] == "stroke on this slice"
    assert "all of them are haemorrhages" in " ".join(metrics["notes"])


def test_a_part_of_a_source(site: Path) -> None:
    (site / "some.txt").write_text("p000\np001\np002\n")
    assert run("--patients", "some.txt")["n_patients"] == 3
    assert run("--patients", "some.txt", "--where", "slice=1")["n_slices"] == 3
    (site / "some.txt").write_text("p000\nnobody\n")
    with pytest.raises(DataError, match="1 of 2 patients have no slice"):
        run("--patients", "some.txt")
    with pytest.raises(ParamsError, match="--source 'x'"):
        stage.main(["--source", "x"])


def test_conditions() -> None:
    rows = [Row("a", "p", 0, 1, {"site": "B", "fracture": 1}), Row("b", "q", 0, 0, {"site": "C", "fracture": 0})]
    assert choose_rows(rows, ["site=B"], None) == rows[:1] and choose_rows(rows, ["fracture=0", "label=0"], None) == rows[1:]
    assert choose_rows(rows, [], {"q"}) == rows[1:]
    for condition, message in (
        ("site", "expected column=value"),
        ("age=3", "this source has the columns file, fracture, label, patient, site, slice"),
        ("site=D", "no slice has it; site is B, C"),
        ("patient=r", "patient is 2 others"),
    ):
        with pytest.raises(DataError, match=message):
            choose_rows(rows, [condition], None)


def test_one_patient_is_no_cohort_and_one_class_has_no_auc(site: Path) -> None:
    with pytest.raises(NotEstimableError, match="at least two patients"):
        run("--where", "patient=p000")
    metrics = run("--where", "label=0")
    assert metrics["slice"]["roc_auc"] == {"value": None, "ci95": None} and metrics["slice"]["sensitivity"]["value"] is None
    assert metrics["slice"]["specificity"]["value"] is not None
    shift = metrics["shift"]
    assert shift["calibration"]["slope"]["verdict"] == "not estimable"
    assert shift["figures"]["slice roc_auc"]["verdict"] == "not estimable" and shift["intensity"] is None
