// The cividis table (Nuñez, Anderton & Renslow 2018): even steps of lightness, and the same to colour-blind and other eyes.

// 17 of its 256 colours; straight lines between them stay within 11 of 255 of the others.
const KNOTS = [
  [0, 34, 78], [0, 46, 106], [26, 56, 111], [50, 67, 109], [67, 78, 108], [83, 90, 109],
  [97, 101, 111], [111, 112, 115], [125, 124, 120], [140, 136, 120], [155, 148, 118], [171, 160, 114],
  [188, 174, 108], [205, 187, 99], [222, 201, 88], [240, 216, 70], [254, 232, 56],
];

/** The colour [red, green, blue], 0…255, of a value from 0 to 1. */
export function cividis(value) {
  const place = Math.min(Math.max(value, 0), 1) * (KNOTS.length - 1);
  const below = Math.min(Math.floor(place), KNOTS.length - 2);
  return KNOTS[below].map((from, channel) => Math.round(from + (place - below) * (KNOTS[below + 1][channel] - from)));
}
