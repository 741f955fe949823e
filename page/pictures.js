// The pictures and maps of one scan, fetched when they are needed and kept while the scan is on the page.

import { kindOf } from "./intake.js";
import { post, postJson } from "./service.js";

/** The window in which the model sees every DICOM slice, in Hounsfield units. */
export const BRAIN = { level: 40, width: 120 };

/** Pictures of the slices of one scan; `blobs[number]` is the file of slice `number`. */
export class Pictures {
  #blobs;
  #kept = new Map(); // as files, not as bitmaps: a series would otherwise take a megabyte a slice
  #maps = new Map();
  #wanted = [];
  #busy = false;

  constructor(blobs) {
    this.#blobs = blobs;
  }

  /** Whether slice `number` has a window to choose. */
  async isDicom(number) {
    return (await kindOf(this.#blobs[number])) === "dicom";
  }

  /** An ImageBitmap of slice `number` in a window. PNG and JPEG are drawn as they are, without asking the service. */
  async picture(number, window, signal) {
    if (!(await this.isDicom(number))) return createImageBitmap(this.#blobs[number]);
    const key = `${number} ${window.level} ${window.width}`;
    if (!this.#kept.has(key)) {
      const path = `/view?level=${window.level}&width=${window.width}`;
      this.#kept.set(key, await post(path, "image", [this.#blobs[number]], { signal }));
    }
    return createImageBitmap(this.#kept.get(key));
  }

  /** The class activation map of slice `number`: { rows, columns, map, square }. */
  async map(number, signal) {
    if (!this.#maps.has(number)) {
      this.#maps.set(number, await postJson("/explain?map=json", "image", [this.#blobs[number]], { signal }));
    }
    return this.#maps.get(number);
  }

  /** Fetch the picture of slice `number` when its turn comes: one at a time, so that the service stays free for what is looked at. */
  async later(number, signal, onPicture) {
    this.#wanted.push([number, onPicture]);
    if (this.#busy) return;
    this.#busy = true;
    while (this.#wanted.length && !signal.aborted) {
      const [next, draw] = this.#wanted.shift();
      // A picture in the strip is a comfort. What is wrong with a slice is said where the slice is shown.
      await this.picture(next, BRAIN, signal).then(draw, () => {});
    }
    this.#wanted = [];
    this.#busy = false;
  }
}
