"""The phantom's anatomy: where ventricles, cisterns, bone and eyes lie, what differs between heads, and the space they lie in."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

FIELD_MM = 222.0  # field of view

Volume = NDArray[np.floating[Any]]  # (N, S, S): every slice of one patient

# Tapered capsules: x0, y0, x1, y1 (mm in the average head), radii at both ends (mm), level of the middle, half extent in levels.
# All are mirrored left and right.
Capsules = tuple[tuple[float, ...], ...]
# fmt: off
VENTRICLES: Capsules = (
    (4, -13, 13, -33, 2.6, 4.4, 0.50, 0.15), (12, -30, 11, -6, 4.6, 4.2, 0.66, 0.12),  # frontal horn, body
    (11, -6, 19, 24, 4.2, 5.0, 0.66, 0.12), (19, 20, 25, 33, 4.0, 5.4, 0.52, 0.15),  # body, atrium
    (25, 33, 18, 56, 4.8, 1.5, 0.50, 0.10), (27, -4, 31, 10, 1.0, 1.6, 0.27, 0.09),  # occipital and temporal horns
    (0, -7, 0, 13, 1.9, 2.2, 0.42, 0.12), (0, 35, 4, 38, 4.2, 2.0, 0.12, 0.12),  # third, fourth
)
CISTERNS: Capsules = (
    (0, -24, 0, -6, 2.5, 3.5, 0.26, 0.09), (2, -12, 15, -19, 3.2, 1.5, 0.26, 0.09),  # suprasellar
    (3, -4, 15, 3, 3.0, 1.4, 0.26, 0.09), (15, 3, 15, 17, 1.4, 1.6, 0.27, 0.10),  # suprasellar, ambient
    (15, 17, 0, 25, 1.6, 2.8, 0.31, 0.10), (40, -20, 64, -27, 1.8, 2.8, 0.36, 0.14),  # quadrigeminal, Sylvian
    (40, -20, 37, -9, 1.8, 1.5, 0.40, 0.14), (37, -9, 42, 4, 1.5, 1.2, 0.43, 0.14),  # insula
    (42, 4, 62, 14, 1.1, 1.6, 0.48, 0.10),  # Sylvian, behind the insula
)
DEEP_GREY: Capsules = (  # caudate head, lentiform nucleus, thalamus
    (13, -22, 16, -12, 4.5, 3.5, 0.50, 0.14), (22, -14, 28, 4, 5.5, 3.5, 0.47, 0.13), (8, 4, 14, 15, 5.0, 7.0, 0.46, 0.13),
)
BASE_BONE: Capsules = (  # petrous ridge, mastoid, sella
    (13, 6, 40, 17, 4.5, 7.5, 0.03, 0.17), (40, 17, 62, 26, 7.5, 12.0, 0.02, 0.18), (0, -12, 9, -14, 4.5, 3.0, 0.04, 0.13),
)
# fmt: on
CHOROID: Capsules = ((22, 26, 22.5, 28, 1.8, 1.8, 0.54, 0.08),)
PINEAL: Capsules = ((0, 17.5, 0.5, 18, 2.0, 2.0, 0.40, 0.07),)
GLOBE: Capsules = ((30, -64, 30, -63, 12.0, 12.0, 0.03, 0.17),)
EYE_LENS: Capsules = ((27.5, -73, 32.5, -73, 2.0, 2.0, 0.03, 0.10),)
ORBIT: Capsules = ((30, -64, 17, -36, 17.5, 5.0, 0.03, 0.20),)
EYE_MUSCLE: Capsules = ((19, -58, 15, -38, 1.8, 1.8, 0.03, 0.14), (42, -54, 20, -36, 1.6, 1.6, 0.03, 0.14))
OPTIC_NERVE: Capsules = ((29, -52, 16, -36, 1.8, 1.8, 0.03, 0.12),)


@dataclass(frozen=True)
class Space:
    """Where every pixel of a patient lies. All arrays (N, S, S); x, y in mm of the average head; depth in mm."""

    x: Volume
    y: Volume
    level: Volume
    depth: Volume  # below the inner table of the vault
    pixel_mm: float
    rng: np.random.Generator

    def noise(self, sigma_mm: float, sigma_slices: float = 1.0) -> Volume:
        """Smooth random field of unit variance, coherent over neighbouring slices."""
        white = self.rng.standard_normal(self.x.shape, np.float32)
        sigma = sigma_mm / self.pixel_mm
        field = gaussian_filter(white, (sigma_slices, sigma, sigma), truncate=3.0)
        return (field - field.mean()) / field.std()

    def soft(self, distance_mm: Volume) -> Volume:
        """Membership 0..1 of an antialiased shape from the signed distance (positive inside)."""
        return np.clip(distance_mm / self.pixel_mm + 0.5, 0.0, 1.0)

    def capsules(self, rows: Capsules, scale: float = 1.0) -> Volume:
        """Signed distance (mm, positive inside) to the union of capsules whose radii are multiplied by `scale`."""
        across = np.abs(self.x)
        best = np.full_like(self.x, -1e3)
        for x0, y0, x1, y1, r0, r1, middle, extent in rows:
            dx, dy = x1 - x0, y1 - y0
            along = np.clip(((across - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
            distance = np.hypot(across - x0 - along * dx, self.y - y0 - along * dy)
            fade = 1.0 - np.square((self.level - middle) / extent)
            radius = (r0 + along * (r1 - r0)) * scale * np.minimum(fade * 1.6, 1.0)
            np.maximum(best, radius - distance, out=best)
        return best


# Uniform ranges of what differs from patient to patient, whether or not there is a lesion.
# fmt: off
HEAD_RANGES = {
    "width": (0.93, 1.07), "length": (0.93, 1.06),  # times the average head
    "skull_mm": (4.5, 7.5), "scalp_mm": (3.5, 8.0), "scalp_hu": (-100, 40),  # fatty to muscular
    "swelling_mm": (-6, 8), "swelling_rad": (-3.1, 3.1),  # of the scalp; negative: none
    "atrophy": (0.0, 1.0),
    "pitch": (-0.02, 0.13),  # levels gained from the middle of the head to the occiput: the gantry follows the orbits
    "roll": (-0.05, 0.05), "turn_rad": (-0.12, 0.12), "shift_x_mm": (-7, 7), "shift_y_mm": (-11, -3),
    "start": (0.0, 0.06),  # level of the lowest slice
    "offset_hu": (-4, 4),  # calibration of the scanner
    "noise_hu": (1.8, 3.8), "cupping_hu": (0, 9), "streak_hu": (3, 14),
    "headrest": (-0.4, 1.0),  # negative: none in the field of view
    "headrest_hu": (45, 92), "headrest_mm": (3, 14),  # plastic as dense as blood, so that its brightness proves nothing
    "headrest_taper": (-1.6, 1.6),  # share of its thickness gained from the lowest slice to the highest
    "choroid_hu": (-150, 350), "pineal_hu": (-100, 300), "falx_hu": (-200, 250),  # calcification; negative: none
}
# fmt: on
