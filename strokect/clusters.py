"""Who belongs together where no patient id exists: slices tied by near-duplicates, directly or through others."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from strokect.duplicates import linked_rows
from strokect.sources import Row
from strokect.splits import linked_groups


def clusters(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N, S, S) uint8 → (N,) cluster number of each slice, from 0 in the order of the first slice of each.

    A slice like no other is a cluster of its own. A cluster is more often a part of a patient than all of one: a split that keeps
    clusters together avoids copies on both sides and proves nothing about patients.
    """
    group = linked_groups(np.arange(len(images)).astype(str), linked_rows(images))
    _, first, number = np.unique(group, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].astype(np.int64)


def by_cluster(rows: list[Row], images: NDArray[np.uint8]) -> list[Row]:
    """The same rows, row-aligned with images (N, S, S), with clusters for patients and the order within them for `slice`."""
    order: dict[int, int] = {}
    grouped = []
    for row, cluster in zip(rows, clusters(images).tolist(), strict=True):
        order[cluster] = order.get(cluster, -1) + 1
        grouped.append(replace(row, patient=f"cluster-{cluster:05d}", slice=order[cluster]))
    return grouped
