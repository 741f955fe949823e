"""The patient rule on a worked case."""

import numpy as np

from strokect.operating_point import patient_labels, patient_scores


def test_patient_score_is_the_mean_of_the_top_slices() -> None:
    patients = np.array(["b", "a", "b", "b", "b", "a"])
    p = np.array([0.1, 0.6, 0.9, 0.5, 0.7, 0.2])
    names, scores = patient_scores(p, patients, 3)
    assert names.tolist() == ["a", "b"]
    np.testing.assert_allclose(scores, [0.4, 0.7])
    assert patient_labels(np.array([0, 0, 1, 0, 0, 0]), patients).tolist() == [0, 1]
