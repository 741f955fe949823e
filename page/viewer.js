// The slice on a canvas and the class activation map over it.

import { colour } from "./colours.js";

const SIDE = 768; // pixels of the canvas: sharp on dense screens, and CT slices have 512
const TINT = 192; // pixels of the interpolated map

/** Draws one slice with its map; `opacity` runs from 0 to 1. */
export class Viewer {
  #context;
  #picture = null;
  #tint = null;
  #square = null;
  #opacity = 0;

  constructor(canvas) {
    canvas.width = canvas.height = SIDE;
    this.#context = canvas.getContext("2d");
  }

  /** Show a picture (anything that can be drawn), or none. */
  setPicture(picture) {
    this.#picture = picture;
    this.#draw();
  }

  /** Lay a map ([[…]] of rows) over the `square` that it covers, in pixels of the picture, or none. Gives its largest value, which
   * the scale ends at. */
  setMap(map, square) {
    this.#square = square;
    const highest = map ? Math.max(...map.flat()) : 0;
    this.#tint = highest > 0 ? tint(map, highest) : null;
    this.#draw();
    return highest;
  }

  setOpacity(opacity) {
    this.#opacity = opacity;
    this.#draw();
  }

  #draw() {
    const context = this.#context;
    context.fillStyle = "#000";
    context.fillRect(0, 0, SIDE, SIDE);
    if (!this.#picture) return;
    context.imageSmoothingQuality = "high";
    context.globalAlpha = 1;
    drawSquare(context, this.#picture, SIDE);
    if (!this.#tint) return;
    context.globalAlpha = this.#opacity;
    const { width, height } = this.#picture;
    const scale = SIDE / Math.max(width, height);
    const { left, top, side } = this.#square;
    const [x, y] = [(SIDE - width * scale) / 2 + left * scale, (SIDE - height * scale) / 2 + top * scale];
    context.drawImage(this.#tint, x, y, side * scale, side * scale);
  }
}

/** Draw a picture in the middle of a black square. */
export function drawSquare(context, picture, side) {
  const scale = side / Math.max(picture.width, picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  context.drawImage(picture, (side - width) / 2, (side - height) / 2, width, height);
}

/** The scale beside the map: from transparent 0 to the highest value, over the black that the slice lies on. */
export function drawScale(canvas) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let at = 0; at < image.data.length; at += 4) {
    const value = ((at / 4) % canvas.width) / (canvas.width - 1);
    image.data.set([...colour(value).map((channel) => channel * visible(value)), 255], at);
  }
  context.putImageData(image, 0, 0);
}

/** How much of the colour of a value, 0…1, is laid on: weak activation leaves the slice readable. */
const visible = (value) => value ** 0.8;

/** A map of few cells as a smooth picture: linear between the centres of the cells, nothing where it is not positive. */
function tint(map, highest) {
  const canvas = new OffscreenCanvas(TINT, TINT);
  const image = new ImageData(TINT, TINT);
  const rows = places(map.length);
  const columns = places(map[0].length);
  for (let y = 0; y < TINT; y++) {
    for (let x = 0; x < TINT; x++) {
      const [top, bottom, down] = rows[y];
      const [left, right, across] = columns[x];
      const above = map[top][left] * (1 - across) + map[top][right] * across;
      const below = map[bottom][left] * (1 - across) + map[bottom][right] * across;
      const value = Math.max(0, above * (1 - down) + below * down) / highest;
      image.data.set([...colour(value), 255 * visible(value)], 4 * (TINT * y + x));
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** For each pixel along one side: the two cells it lies between, and how far it is from the first. */
function places(cells) {
  return Array.from({ length: TINT }, (_, pixel) => {
    const place = Math.min(Math.max(((pixel + 0.5) * cells) / TINT - 0.5, 0), cells - 1);
    const first = Math.floor(place);
    return [first, Math.min(first + 1, cells - 1), place - first];
  });
}
