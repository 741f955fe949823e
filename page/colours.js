// The colours of the map, those of strokect/overlay.py (tests/test_overlay.py compares them): viridis, in even steps of lightness,
// which reads the same to colour-blind and other eyes.

// Straight lines between them.
const ANCHORS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "27ad81", "5cc863", "aadc32", "fde725"].map((hex) =>
  [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)),
);

/** The colour [red, green, blue], 0…255, of a value from 0 to 1. */
export function colour(value) {
  const place = Math.min(Math.max(value, 0), 1) * (ANCHORS.length - 1);
  const below = Math.min(Math.floor(place), ANCHORS.length - 2);
  return ANCHORS[below].map((from, channel) => Math.round(from + (place - below) * (ANCHORS[below + 1][channel] - from)));
}
