"""Exploration: its numbers are pandas' own, it names nobody, its page stands alone and warns, its notebook runs."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, run, tiny_params, workspace
from matplotlib.figure import Figure
from matplotlib.text import Text
from nbclient import NotebookClient

from strokect.eda import (
    CLASSES,
    POSITIONS,
    UNPLACED,
    Exploration,
    explore,
    hu_window,
    intensity_table,
    positions_of,
    sample_slices,
    subtype_counts,
)
from strokect.eda_page import WARNING, render_page
from strokect.eda_plots import draw, to_png
from strokect.manifest import COLUMNS, Prepared, load_prepared

PATIENTS = {"Erika": (5, 2), "Max": (10, 0), "Jo": (1, 1), "Kim": (4, 0)}  # id → (slices, the first so many positive)


def prepared(source: str = "kaggle_ct_ich", *, people: bool = True) -> Prepared:
    """Twenty slices of four patients; each slice is one grey level, its row number + 100."""
    rows = []
    for patient, (slices, positive) in PATIENTS.items():
        for order in range(slices):
            row = dict.fromkeys(COLUMNS, "x") | {"file": f"{patient}/{order}.png", "patient": patient, "slice": order}
            rows.append(row | {"label": int(order < positive), "width": 40, "height": 40})
    manifest = pd.DataFrame(rows)
    if people:
        # As read_manifest gives them: text, empty where unknown.
        manifest["age_years"] = manifest["patient"].map({"Erika": "30", "Max": "0.5", "Jo": "", "Kim": "71"})
        manifest["gender"] = manifest["patient"].map({"Erika": "Female", "Max": "Male", "Jo": "", "Kim": "Male"})
        manifest["subtype"] = np.where(manifest["label"] == 1, "Epidural+Subdural", "")
        manifest.loc[manifest["patient"] == "Jo", "subtype"] = "Epidural"
    images = np.repeat(np.arange(100, 120, dtype=np.uint8), 40 * 40).reshape(20, 1, 40, 40)
    cohort = {"source": source, "synthetic": source == "phantom", "target": "a <bleed>", "labels": "slice", "label_unit": "slice"}
    return Prepared(images, manifest, cohort)


@pytest.fixture(scope="module")
def seen() -> Exploration:
    return explore(prepared())


def test_classes_and_patients_are_counted(seen: Exploration) -> None:
    assert seen.classes.to_dict("index") == {
        "negative": {"slices": 17, "patients": 2},
        "positive": {"slices": 3, "patients": 2},
    }
    assert sorted(zip(seen.patients["slices"], seen.patients["positive_slices"], strict=True)) == sorted(PATIENTS.values())
    assert seen.facts["slices per patient"] == "median 4.5, 1 to 10"


def test_age_and_gender_are_per_patient_and_unknown_where_empty(seen: Exploration) -> None:
    assert sorted(seen.patients["age_years"].dropna()) == [0.5, 30, 71]
    assert seen.patients["gender"].value_counts().to_dict() == {"Male": 2, "Female": 1, "": 1}
    assert set(seen.patients.loc[seen.patients["class"] == "positive", "slices"]) == {5, 1}


def test_positions_are_fifths_of_a_patient_s_slices_in_their_order(seen: Exploration) -> None:
    data = prepared()
    mixed = data.manifest.sample(frac=1, random_state=0)
    expected = {("Erika", k): k for k in range(5)} | {("Max", k): k // 2 for k in range(10)} | {("Jo", 0): 2}
    expected |= {("Kim", k): place for k, place in enumerate((0, 1, 3, 4))}
    found = dict(zip(zip(mixed["patient"], mixed["slice"], strict=True), positions_of(mixed), strict=True))
    assert found == expected
    assert seen.positions["slices"].tolist() == [4, 4, 4, 4, 4]
    assert seen.positions["positive_slices"].tolist() == [1, 1, 1, 0, 0]


def test_lesion_types_of_a_slice_count_each(seen: Exploration) -> None:
    assert seen.subtypes.to_dict("index") == {
        "Epidural": {"slices": 3, "patients": 2},
        "Subdural": {"slices": 2, "patients": 1},
    }
    assert subtype_counts(prepared(people=False).manifest).empty


def test_intensity_is_a_share_of_the_class_s_pixels_inside_the_window() -> None:
    images = np.zeros((2, 1, 10, 10), np.uint8)
    images[0, 0].flat[:10], images[0, 0].flat[10:15], images[0, 0].flat[15:20] = 255, 102, 200
    images[1, 0].flat[:50] = 102
    table, clipped = intensity_table(images, np.array([0, 1]), None)
    assert clipped == {"negative": (0.8, 0.1), "positive": (0.5, 0.0)}
    found = table.set_index("value")
    assert found["negative"][found["negative"] > 0].to_dict() == {101.5: 0.5, 201.5: 0.5}
    assert found["positive"][found["positive"] > 0].to_dict() == {101.5: 1.0}
    in_hu, _ = intensity_table(images, np.array([0, 1]), (40.0, 120.0))
    np.testing.assert_allclose(in_hu["value"], -20 + table["value"] * 120 / 255)


@pytest.mark.parametrize(
    ("cohort", "window"),
    [
        ({"source": "phantom"}, (40.0, 120.0)),
        ({"source": "dicom", "windows": [[80, 200], [40, 80]]}, (80.0, 200.0)),
        ({"source": "kaggle_ct_ich"}, None),  # the window is baked in, and nobody says which
        ({"source": "folder"}, None),
        ({"source": "manifest", "windows": [[40, 120]]}, None),
        ({"source": "folder", "windows": [[40, 80], [80, 200], [40, 40]]}, (40.0, 80.0)),  # of DICOM files: pictures were refused
    ],
)
def test_hu_only_where_they_are_known(cohort: dict[str, object], window: tuple[float, float] | None) -> None:
    assert hu_window(cohort) == window


def test_samples_are_of_their_class_and_position_and_of_different_patients(seen: Exploration) -> None:
    data = prepared()
    place = positions_of(data.manifest)
    for (name, where), slices in seen.samples.items():
        rows = [int(one[0, 0]) - 100 for one in slices]
        assert all(data.labels[row] == CLASSES.index(name) and POSITIONS[place[row]] == where for row in rows)
        assert len({data.patients[row] for row in rows}) == len(rows)
        there = set(data.patients[(data.labels == CLASSES.index(name)) & (place == POSITIONS.index(where))])
        assert len(rows) == min(len(there), 2)
    again = sample_slices(data.images, data.manifest, np.random.default_rng(1))
    assert any(not np.array_equal(again[key], seen.samples[key]) for key in again)


def test_only_what_is_known_is_drawn_and_each_plot_is_a_picture(seen: Exploration) -> None:
    assert {"age", "gender", "subtypes", "classes", "samples", "intensity"} <= set(draw(seen))
    without = draw(explore(prepared(people=False)))
    assert not {"age", "gender", "subtypes"} & set(without)
    assert all(to_png(figure).startswith(b"\x89PNG") for figure in without.values())
    assert to_png(draw(seen, "light")["classes"]) != to_png(draw(seen, "dark")["classes"])


def texts_of(figure: Figure) -> list[Text]:
    """Every text that is drawn; matplotlib keeps labels of ticks outside the axes as well."""
    texts: list[Text] = list(figure.texts)
    for axes in figure.axes:
        texts += [part for part in axes.get_children() if isinstance(part, Text)]  # annotations and titles
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [axis.label, *(tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)]
    return [text for text in texts if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("real", [True, False])
def test_no_text_of_a_plot_overlaps_another_or_leaves_the_figure(real: bool) -> None:
    data = prepared("kaggle_ct_ich" if real else "phantom")
    data.manifest["subtype"] = np.where(data.manifest["label"] == 1, "a lesion with a very long name indeed", "")
    for name, figure in draw(explore(data)).items():
        figure.draw_without_rendering()
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts_of(figure)]
        assert len(boxes) >= 3
        for number, (text, box) in enumerate(boxes):
            assert min(box.x0, box.y0, figure.bbox.width - box.x1, figure.bbox.height - box.y1) > -1, (name, text)
            for other, second in boxes[:number]:
                overlap = min(box.x1, second.x1) - max(box.x0, second.x0), min(box.y1, second.y1) - max(box.y0, second.y0)
                assert min(overlap) < 1, (name, text, other)


def test_the_page_stands_alone_names_nobody_and_warns_of_real_pictures(seen: Exploration) -> None:
    page = render_page(seen)
    assert WARNING in page and WARNING not in render_page(explore(prepared("phantom")))
    assert not re.search(r"""(src|href|srcset)=["'](?!data:)|https?://""", page)
    assert "a &lt;bleed&gt;" in page and "prefers-color-scheme: dark" in page and 'name="viewport"' in page
    assert not any(patient in page for patient in ("Erika", ".png<", "Kim/"))
    assert page.count("<img") == len(draw(seen)) == page.count("alt=")


def test_without_patient_ids_nothing_is_said_of_patients_and_positions() -> None:
    """A group of look-alikes is no patient, and the order within it no position in a head."""
    unverifiable = prepared()
    unverifiable.cohort["patient_level_verifiable"] = False
    found = explore(unverifiable)
    assert found.positions.empty and {where for _, where in found.samples} == set(UNPLACED)
    assert set(draw(found)) == {"classes", "intensity", "samples", "subtypes"}
    words = " ".join(text for figure in draw(found).values() for text, *_ in ((t.get_text(),) for t in texts_of(figure)))
    assert "patients" not in words.replace("pictures of patients", "") and "fifth" not in words
    page = render_page(found)
    assert "not verifiable" in page and "slices per patient, positive slices by position, age and gender: they need" in page


def test_the_stage_writes_the_plots_and_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with workspace(tmp_path, tiny_params()):
        run("prepare")
        run("eda")
    assert {path.name for path in (tmp_path / "reports/eda").iterdir()} == {
        *("classes.png", "slices_per_patient.png", "positions.png", "intensity.png", "samples.png", "subtypes.png"),
    }
    assert (tmp_path / "reports/eda.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "WARNING" not in capsys.readouterr().out  # nobody's pictures


def test_the_notebook_shows_the_same_from_a_manifest_and_holds_no_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ROOT / "notebooks/eda.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    data = prepared()
    np.save(tmp_path / "images.npy", data.images)
    data.manifest.to_csv(tmp_path / "manifest.csv", index=False)
    (tmp_path / "cohort.json").write_text(json.dumps(data.cohort))
    monkeypatch.setenv("STROKECT_PREPARED", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == len(draw(explore(load_prepared(tmp_path))))
    assert not any(output.output_type == "error" for output in outputs)
    counts = next(output.data["text/plain"] for output in outputs if "negative" in output.get("data", {}).get("text/plain", ""))
    assert counts.split() == ["slices", "patients", "negative", "17", "2", "positive", "3", "2"]
