"""A synthetic head CT cohort in Hounsfield units, for tests and demonstrations that need no patient's data.

Anatomy is a set of soft-edged shapes in millimetres over (slice, row, column); x runs to image right, y to posterior, and
`level` runs from 0 (skull base) to 1 (near the vertex). A lesion moves few pixels, while head size, atrophy, calcifications,
headrest, noise and calibration vary from patient to patient, so that brightness alone does not give the label away.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from strokect.ahead import map_ahead
from strokect.phantom_anatomy import (
    BASE_BONE,
    CHOROID,
    CISTERNS,
    DEEP_GREY,
    EYE_LENS,
    EYE_MUSCLE,
    FIELD_MM,
    GLOBE,
    HEAD_RANGES,
    OPTIC_NERVE,
    ORBIT,
    PINEAL,
    VENTRICLES,
    Space,
    Volume,
)

LESIONS = ("epidural", "subdural", "intraparenchymal", "intraventricular", "infarct")
PATIENTS_AHEAD = 32  # drawn before they are asked for
MIN_LESION_FRACTION = 12 / 96**2  # of the picture; a smaller trace of a lesion is not visible and counts as none


@dataclass(frozen=True)
class PhantomSlice:
    """One slice. The label is `lesion != ""`."""

    patient: str  # "p000"
    slice: int  # 0 = lowest
    hu: NDArray[np.float32]  # (S, S) Hounsfield units
    mask: NDArray[np.uint8]  # (S, S) 0 background, else index in LESIONS + 1
    lesion: str  # "" or one of LESIONS


@dataclass(frozen=True)
class _Lesion:
    """Plan of one patient's lesion. `angle_rad` runs from the front over `side` (+1 image right, -1 left) to the back."""

    kind: str
    side: int
    angle_rad: float
    spread_rad: float
    level: float  # of the middle
    extent: float  # half height in levels
    size_mm: float
    hu: float  # of the blood, or the loss in an infarct
    shift_mm: float  # of the midline, away from the lesion

    def fade(self, level: Volume) -> Volume:
        """1 in the middle of the lesion, 0 at its upper and lower end, negative beyond."""
        return 1.0 - np.square((level - self.level) / self.extent)


# angle_rad, spread_rad, levels above or below the middle, extent, size_mm, hu, shift_mm
LESION_RANGES = {
    "epidural": ((0.9, 2.3), (0.50, 0.70), (0.15, 0.45), (0.40, 0.55), (22, 32), (64, 84), (4, 11)),
    "subdural": ((1.3, 1.9), (0.95, 1.25), (0.15, 0.45), (0.40, 0.55), (11, 17), (62, 82), (5, 12)),
    "intraparenchymal": ((1.1, 2.5), (0.0, 0.0), (0.15, 0.38), (0.34, 0.46), (14, 21), (66, 86), (2, 9)),
    "intraventricular": ((0.0, 3.1), (0.0, 0.0), (0.00, 0.12), (0.24, 0.34), (1.3, 1.8), (64, 84), (0, 1)),
    "infarct": ((0.6, 2.6), (0.55, 0.80), (0.15, 0.45), (0.40, 0.55), (42, 56), (10.5, 12.0), (1, 5)),
}


def _plan_lesion(patient: int, seed: int) -> _Lesion | None:
    """One patient of every pair 2k, 2k+1 is positive, and any 5 consecutive pairs from 5k on have 5 different lesions."""
    pair = patient // 2
    if np.random.default_rng([seed, 1, pair]).integers(2) != patient % 2:
        return None
    kind = LESIONS[np.random.default_rng([seed, 2, pair // 5]).permutation(5)[pair % 5]]
    rng = np.random.default_rng([seed, 3, patient])
    side = int(rng.choice((-1, 1)))
    angle, spread, off, *others = (float(rng.uniform(*bounds)) for bounds in LESION_RANGES[kind])
    return _Lesion(kind, side, angle, spread, 0.5 + off * int(rng.choice((-1, 1))), *others)


def _make_space(head: dict[str, float], lesion: _Lesion | None, slices: int, size: int, rng: np.random.Generator) -> Space:
    axis = (np.arange(size, dtype=np.float32) + 0.5) * FIELD_MM / size - FIELD_MM / 2
    column, row = axis - head["shift_x_mm"], axis[:, None] - head["shift_y_mm"]
    cosine, sine = np.cos(head["turn_rad"]), np.sin(head["turn_rad"])
    x = (cosine * column + sine * row) / head["width"]  # (S, S)
    y = (cosine * row - sine * column) / head["length"]
    level = np.linspace(head["start"], 0.93, slices)[:, None, None] + head["pitch"] * y / 84 + head["roll"] * x / 66
    x, y, level = (np.ascontiguousarray(np.broadcast_to(part, level.shape), np.float32) for part in (x, y, level))
    shrink = np.sqrt(np.clip(1.0 - np.square((level - 0.36) / 0.82), 0.05, None))
    along = y / (84 * shrink)
    across = x / (66 * shrink * (1.0 + 0.10 * along - 0.05 * along * along))  # egg: widest behind the middle
    rho = (np.abs(across) ** 2.25 + np.abs(along) ** 2.25) ** (1 / 2.25)
    depth = np.hypot(x, y) * (1.0 / np.maximum(rho, 1e-3) - 1.0)
    space = Space(x, y, level, depth, FIELD_MM / size, rng)
    depth = depth + 0.9 * space.noise(22.0, 2.0)
    inner = np.clip(depth / 15.0, 0.0, 1.0)  # the vault stays where it is while its content is deformed
    x = x + inner * (1.3 * space.noise(11.0) + 1.5 * space.noise(40.0, 3.0))
    y = y + inner * 1.6 * space.noise(11.0)
    if lesion is not None:
        push = np.exp(-np.square(y / 50.0)) * np.clip(lesion.fade(level), 0.0, 1.0) * np.clip(depth / 30.0, 0.0, 1.0)
        x = x + lesion.side * lesion.shift_mm * push
    return Space(x, y, level, depth, FIELD_MM / size, rng)


def _blend(hu: Volume, membership: Volume, value: Volume | float) -> None:
    hu += membership * (value - hu)


def _paint_vault(space: Space, head: dict[str, float], cavity: Volume) -> Volume:
    """Air, scalp, skull, and below the cavity's floor the face with its orbits; the cavity is left to the brain."""
    angle = np.arctan2(space.x, -space.y)
    skull_mm = head["skull_mm"] * (1.0 + 0.35 * np.square(space.y / 84) + 0.13 * space.noise(18.0, 2.0))
    scalp_mm = head["scalp_mm"] * (1.0 + 0.15 * space.noise(18.0, 2.0))
    scalp_mm += max(head["swelling_mm"], 0.0) * np.exp(-np.square((angle - head["swelling_rad"]) / 0.45))
    hu = np.full_like(space.x, -1000.0)
    _blend(hu, space.soft(space.depth + skull_mm + scalp_mm), 45.0)  # skin
    fat = space.soft(space.depth + skull_mm + scalp_mm - 2.2)
    _blend(hu, fat, np.clip(head["scalp_hu"] + 60.0 * space.noise(7.0) + 14.0 * max(head["swelling_mm"], 0.0), -100.0, 72.0))
    temporal = np.exp(-np.square((np.abs(angle) - 1.05) / 0.5)) * np.clip(1.0 - space.level / 0.55, 0.0, 1.0)
    _blend(hu, fat * np.clip(2.0 * temporal, 0.0, 1.0), 58.0)  # muscle
    bone = space.soft(space.depth + skull_mm)
    _blend(hu, bone, 1150.0)
    _blend(hu, space.soft(skull_mm * 0.22 - np.abs(space.depth + skull_mm / 2)), 600.0 + 120.0 * space.noise(6.0))
    face = space.soft(np.minimum(space.depth - 1.5, -3.0 - cavity))
    _blend(hu, face, 25.0 + 40.0 * space.noise(6.0))
    sinus = space.soft(3.2 * (space.noise(3.2) + 0.9)) * space.soft(11.0 - np.abs(space.x)) * (space.y < -32)
    _blend(hu, face * sinus, -750.0)
    for rows, value in ((ORBIT, -80.0), (EYE_MUSCLE, 45.0), (OPTIC_NERVE, 35.0), (GLOBE, 22.0), (EYE_LENS, 85.0)):
        _blend(hu, space.soft(space.capsules(rows)) * np.clip(bone * 2 - 1, 0, 1) * (cavity < -1.0), value)
    return hu


def _paint_brain(space: Space, head: dict[str, float], ventricles: Volume) -> tuple[Volume, Volume]:
    """HU of the cavity's content, and the membership 0..1 of brain tissue (not CSF)."""
    atrophy, level = head["atrophy"], space.level
    folds = np.minimum(np.abs(space.noise(6.0)) * 6.0, np.abs(space.noise(5.0)) * 6.0)  # mm from the nearest sulcus
    reach = 12.0 + 5.0 * space.noise(9.0) + 8.0 * np.clip((level - 0.75) / 0.2, 0.0, 1.0)
    gap = 0.4 + 2.2 * atrophy
    ribbon = np.where(space.depth < reach, folds, 99.0)
    fissure = np.where((np.abs(space.y) > 46) | (level > 0.78), np.abs(space.x), 99.0)
    hu = np.full_like(space.x, 28.0)  # white matter
    cortex = np.maximum(4.5 - space.depth + gap, np.maximum(4.0 - ribbon, 4.0 - fissure))
    _blend(hu, space.soft(np.maximum(cortex, space.capsules(DEEP_GREY))), 38.0)
    fossa = space.soft(np.minimum(space.y - 14 - 0.25 * np.abs(space.x), 140 * (0.27 - level)))
    _blend(hu, fossa, 35.0 + 3.0 * np.sin(0.9 * np.hypot(space.x, space.y - 25)))  # folia of the cerebellum
    _blend(hu, space.soft(np.minimum(14 - np.hypot(space.x, space.y - 13), 140 * (0.33 - level))), 31.0)  # brainstem
    sulci = np.maximum(gap - space.depth, 0.5 + 1.2 * atrophy - ribbon * (1.0 + fossa))
    cisterns = np.maximum(space.capsules(CISTERNS, 0.75 + 0.6 * atrophy), 0.5 + 1.2 * atrophy - fissure)
    fluid = space.soft(np.maximum(np.maximum(sulci, cisterns), ventricles))
    _blend(hu, fluid, 8.0)
    falx = space.soft(0.9 - np.abs(space.x)) * (fissure < 99) * (level > 0.3)
    _blend(hu, falx, 52.0)
    plaque = falx * (space.noise(5.0) > 1.6)
    for region, value in ((plaque, "falx_hu"), (space.soft(space.capsules(CHOROID)), "choroid_hu")):
        hu += region * max(head[value], 0.0)
    hu += space.soft(space.capsules(PINEAL)) * max(head["pineal_hu"], 0.0)
    return hu, 1.0 - np.maximum(fluid, falx)


def _lesion_region(space: Space, lesion: _Lesion, cavity: Volume, ventricles: Volume, tissue: Volume) -> Volume:
    """Membership 0..1 of the lesion."""
    fade, side_x = lesion.fade(space.level), lesion.side * space.x
    strength = np.sqrt(np.clip(fade, 0.0, 1.0))
    away = np.arctan2(side_x, -space.y) - lesion.angle_rad
    size = lesion.size_mm
    if lesion.kind == "epidural":
        inside = size * (fade - np.square(away / lesion.spread_rad)) - space.depth
    elif lesion.kind == "subdural":
        flat = np.minimum(2.5 * (fade - np.square(away / lesion.spread_rad)), 1.0)
        inside = np.minimum(size * flat * (1.0 + 0.2 * space.noise(12.0, 2.0)) - space.depth, side_x - 2.0)
    elif lesion.kind == "intraparenchymal":
        centre_x, centre_y = 34 * np.sin(lesion.angle_rad), -42 * np.cos(lesion.angle_rad)
        distance = np.hypot(side_x - centre_x, 0.8 * (space.y - centre_y))
        inside = np.minimum(size * strength - distance + 3.0 * space.noise(7.0), 40 * fade)
    elif lesion.kind == "intraventricular":
        clot = 3.0 * (0.7 + space.noise(14.0, 2.0)) + 0.15 * space.y + 0.05 * side_x
        inside = np.minimum(np.minimum(ventricles, clot), 40 * fade)
    else:
        radius = np.hypot(space.x, space.y)
        wedge = (lesion.spread_rad * strength - np.abs(away)) * radius
        inside = np.minimum(wedge, size * np.minimum(1.5 * strength, 1.0) - space.depth) + 2.5 * space.noise(8.0)
        return space.soft(np.minimum(inside, 40 * fade)) * tissue * space.soft(cavity - 1.0)
    return space.soft(inside) * space.soft(cavity)


def _add_lesion(hu: Volume, region: Volume, lesion: _Lesion, texture: Volume) -> None:
    if lesion.kind == "infarct":
        hu -= region * lesion.hu
        return
    if lesion.kind == "intraparenchymal":
        hu -= 8.0 * np.clip(gaussian_filter(region, (0, 2, 2)) * 2.0, 0.0, 1.0) * (1.0 - region)  # oedema
    _blend(hu, region, lesion.hu + 3.0 * texture)


def _acquire(hu: Volume, space: Space, head: dict[str, float], cavity: Volume) -> Volume:
    """Headrest, beam hardening, blur, noise and calibration: what the scanner adds to the body."""
    if head["headrest"] > 0:
        size = hu.shape[-1]
        axis = (np.arange(size, dtype=np.float32) + 0.5) * FIELD_MM / size - FIELD_MM / 2
        ring = np.hypot(axis, axis[:, None] + 6) - 107 - 3 * head["headrest"]
        steps = np.linspace(-0.5, 0.5, len(hu))[:, None, None]
        half = head["headrest_mm"] / 2 * np.maximum(1.0 + head["headrest_taper"] * steps, 0.0)
        shell = space.soft(np.minimum(half - np.abs(ring), axis[:, None] - 30.0)) * (hu < -500)
        _blend(hu, shell, head["headrest_hu"])
    inside = space.soft(cavity)
    hu += inside * head["cupping_hu"] * np.exp(-np.clip(cavity, 0, None) / 9.0)
    lines = gaussian_filter1d(space.rng.standard_normal(hu.shape[:2]), 5.0 / space.pixel_mm, axis=1)[:, :, None]
    lines = lines / lines.std() - 1.2 * np.exp(-np.square((space.y - 8) / 9))  # dark between the petrous bones
    hu += inside * head["streak_hu"] * np.exp(-np.square(space.level / 0.17)) * lines
    hu = gaussian_filter(hu, (0, 0.4, 0.4))
    grain = gaussian_filter(space.rng.standard_normal(hu.shape, np.float32), (0, 0.55, 0.55))
    hu += grain * (head["noise_hu"] / grain.std()) + head["offset_hu"]
    return np.clip(hu, -1024.0, 3071.0).astype(np.float32)


def make_patient(patient: int, *, seed: int, slices: int, size: int) -> list[PhantomSlice]:
    """All slices of one patient, lowest first. The same `seed` and `patient` give the same head whatever the cohort."""
    rng = np.random.default_rng([seed, 0, patient])
    head = {name: float(rng.uniform(*bounds)) for name, bounds in HEAD_RANGES.items()}
    lesion = _plan_lesion(patient, seed)
    space = _make_space(head, lesion, slices, size, rng)
    floor = space.y + 28.0 + 300.0 * (space.level - 0.06) + 0.45 * np.maximum(np.abs(space.x) - 22, 0) + 2.0 * space.noise(14.0)
    cavity = np.minimum(space.depth, floor)
    blood_widens = lesion.size_mm if lesion is not None and lesion.kind == "intraventricular" else 1.0
    ventricles = space.capsules(VENTRICLES, (0.65 + 0.85 * head["atrophy"]) * blood_widens)
    hu = _paint_vault(space, head, cavity)
    brain, tissue = _paint_brain(space, head, ventricles)
    _blend(hu, space.soft(cavity), brain)
    base = space.soft(np.minimum(space.capsules(BASE_BONE), space.depth + 3))
    _blend(hu, base, np.where(space.noise(3.0) > 1.0, 100.0, 1000.0))  # the mastoid is pneumatised
    mask = np.zeros(hu.shape, np.uint8)
    if lesion is not None:
        region = _lesion_region(space, lesion, cavity, ventricles, tissue) * (1.0 - base)
        _add_lesion(hu, region, lesion, space.noise(5.0))
        mask[region > 0.5] = LESIONS.index(lesion.kind) + 1
        mask[np.count_nonzero(mask, axis=(1, 2)) < MIN_LESION_FRACTION * size**2] = 0
    hu = _acquire(hu, space, head, cavity)
    kinds = [lesion.kind if lesion is not None and part.any() else "" for part in mask]
    return [PhantomSlice(f"p{patient:03d}", index, hu[index], mask[index], kinds[index]) for index in range(slices)]


def make_cohort(*, patients: int, slices: int, size: int, seed: int) -> Iterator[PhantomSlice]:
    """All slices, patient by patient. One patient of two is positive; about three slices of ten are."""
    draw = partial(make_patient, seed=seed, slices=slices, size=size)
    for drawn in map_ahead(draw, range(patients), PATIENTS_AHEAD):
        yield from drawn


def window(hu: NDArray[np.float32], level_hu: float = 40.0, width_hu: float = 120.0) -> NDArray[np.uint8]:
    """HU → grey levels 0..255 of the same shape, linear between level - width/2 and level + width/2, clipped."""
    grey = (np.asarray(hu, np.float32) - (level_hu - width_hu / 2)) * (255.0 / width_hu)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
