// The slice that is looked at: its picture in a window, its map with an opacity, and the controls of both.

import { byId, element } from "./dom.js";
import { BRAIN } from "./pictures.js";
import { pause } from "./service.js";
import { drawScale, Viewer } from "./viewer.js";
import { DECISIONS, number } from "./words.js";

const PRESETS = [["Brain", 40, 120], ["Brain narrow", 40, 80], ["Subdural", 80, 200], ["Stroke", 40, 40], ["Bone", 700, 3200]];
const SETTLE_MS = 150; // a slice that is only scrolled past needs no map, and a number half typed no picture

/** Picture, map and their controls. `open` a scan, then `show` its slices. */
export class SliceView {
  #viewer = new Viewer(byId("canvas"));
  #scan = null;
  #slice = null;
  #of = "";
  #window = BRAIN;
  #shown = null; // controller of the slice on the canvas
  #opened = new AbortController(); // of the scan

  constructor() {
    drawScale(byId("scale-bar"));
    byId("presets").append(...PRESETS.map(([name, level, width]) => preset(name, { level, width }, (chosen) => this.#choose(chosen))));
    for (const id of ["level", "width"]) byId(id).addEventListener("input", () => this.#typed());
    byId("opacity").addEventListener("input", () => this.#setOpacity());
    this.#setOpacity();
    this.#mark();
  }

  /** Begin with a scan; gives the signal that ends what is fetched for it. */
  open(scan) {
    this.close();
    this.#opened = new AbortController();
    this.#scan = scan;
    this.#window = BRAIN;
    this.#mark();
    return this.#opened.signal;
  }

  close() {
    this.#opened.abort();
    this.#shown?.abort();
  }

  /** Forget the scan and its picture. */
  clear() {
    this.close();
    this.#scan = this.#slice = null;
    this.#viewer.setMap(null);
    this.#viewer.setPicture(null);
    byId("caption").replaceChildren();
  }

  /** Show a slice of the scan. */
  async show(scan, slice, of) {
    this.#slice = slice;
    this.#of = of;
    this.#shown?.abort();
    this.#shown = new AbortController();
    const { signal } = this.#shown;
    this.#viewer.setMap(null);
    byId("map-control").disabled = true;
    byId("viewing").classList.toggle("is-rejected", slice.decision === "reject");
    await Promise.all([this.#showPicture(signal), this.#showMap(signal)]);
  }

  async #showPicture(signal) {
    const { pictures, why } = this.#scan;
    const { number: place } = this.#slice;
    if (!pictures) return this.#noPicture(`The page could not open the zip itself (${why}), so it has no picture of it.`);
    try {
      byId("window-control").disabled = !(await pictures.isDicom(place));
      byId("window-control").hidden = byId("window-control").disabled;
      const picture = await pictures.picture(place, this.#window, signal);
      if (signal.aborted) return undefined;
      byId("no-picture").hidden = true;
      this.#viewer.setPicture(picture);
      return this.#caption();
    } catch (error) {
      if (signal.aborted) return undefined;
      return this.#noPicture(`There is no picture of it. ${error.status ? error.message : ""}`);
    }
  }

  async #showMap(signal) {
    const { pictures } = this.#scan;
    const { number: place, decision } = this.#slice;
    if (decision === "reject") return this.#tellMap("No map: a rejected picture is not judged.");
    if (!pictures) return this.#tellMap("No map without a picture.");
    this.#tellMap("The map is being made.");
    try {
      await pause(SETTLE_MS, signal);
      const { rows, columns, map, square } = await pictures.map(place, signal);
      if (signal.aborted) return undefined;
      const highest = this.#viewer.setMap(map, square);
      byId("map-control").disabled = highest <= 0;
      byId("scale-end").textContent = number(Math.max(highest, 0));
      const what = `Class activation map, ${rows} × ${columns} cells: not a localisation.`;
      return this.#tellMap(highest > 0 ? `${what} Yellow is the highest value on this slice.` : `${what} It is positive nowhere on this slice.`);
    } catch (error) {
      if (signal.aborted) return undefined;
      const id = error.requestId ? ` Request id: ${error.requestId}` : "";
      return this.#tellMap(`No map could be made of it.${id}`);
    }
  }

  #noPicture(words) {
    this.#viewer.setPicture(null);
    byId("window-control").hidden = true;
    byId("no-picture").textContent = words;
    byId("no-picture").hidden = false;
    this.#caption();
  }

  #tellMap(words) {
    byId("map-note").textContent = words;
  }

  #caption() {
    const { decision, probability } = this.#slice;
    const answer = `${DECISIONS[decision].word}${probability === null ? "" : ` ${number(probability)}`}`;
    const dicom = !byId("window-control").hidden;
    const seen = dicom ? `level ${this.#window.level}, width ${this.#window.width} HU` : "as in the file";
    const words = [this.#of, answer, seen];
    byId("caption").replaceChildren(...words.map((text) => element("span", {}, text)));
    byId("canvas").setAttribute("aria-label", `${words.join("; ")}; map at ${byId("opacity").value} %`);
  }

  #setOpacity() {
    const { value } = byId("opacity");
    byId("opacity-value").textContent = `${value} %`;
    this.#viewer.setOpacity(value / 100);
    if (this.#slice) this.#caption();
  }

  /** Two numbers are being typed: a window once they make one. */
  #typed() {
    if (!byId("level").checkValidity() || !byId("width").checkValidity()) return;
    if (byId("level").value === "" || byId("width").value === "") return;
    this.#choose({ level: byId("level").valueAsNumber, width: byId("width").valueAsNumber }, SETTLE_MS);
  }

  async #choose(window, delay = 0) {
    this.#window = window;
    this.#mark();
    const { signal } = this.#shown;
    await pause(delay, signal).catch(() => {});
    if (!signal.aborted && window === this.#window) await this.#showPicture(signal);
  }

  #mark() {
    const { level, width } = this.#window;
    if (byId("level").valueAsNumber !== level) byId("level").value = level;
    if (byId("width").valueAsNumber !== width) byId("width").value = width;
    for (const button of byId("presets").children) {
      button.setAttribute("aria-pressed", button.dataset.window === `${level}/${width}`);
    }
  }
}

function preset(name, window, onChoose) {
  const text = `${window.level}/${window.width}`;
  const button = element("button", { type: "button", "data-window": text, title: `level ${window.level}, width ${window.width} HU` });
  button.append(element("span", {}, name), element("span", { class: "numbers" }, text));
  button.addEventListener("click", () => onChoose(window));
  return button;
}
