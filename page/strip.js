// The slices of a series side by side, lowest first: a bar for each probability, a small picture, and the threshold across.

import { element, icon } from "./dom.js";
import { drawSquare } from "./viewer.js";
import { DECISIONS, number } from "./words.js";

const THUMB = 96; // pixels of a small picture
const NOTCH = 40; // pixels of turning that a mouse wheel gives at least; a touchpad sums up to it
const FAR = 5; // slices that Page Up and Page Down go
const KEYS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -FAR, PageUp: FAR, Home: -Infinity, End: Infinity };

/** Keeps one slice current and says so: `onSelect(index)`. Up and right are towards the vertex. */
export class Strip {
  #list;
  #items = [];
  #current = 0;
  #onSelect;
  #observer = null;

  constructor(list, onSelect) {
    this.#list = list;
    this.#onSelect = onSelect;
    list.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("click", (event) => {
      const at = this.#items.indexOf(event.target.closest("[role=option]"));
      if (at >= 0) this.select(at);
    });
    this.scrollWith(list);
  }

  /** Show these slices (answers, lowest first). `onVisible(index, draw)` is told once which small pictures are looked at. */
  fill(slices, onVisible) {
    this.#observer?.disconnect();
    this.#current = -1;
    this.#items = slices.map((slice, index) => option(slice, index));
    this.#list.replaceChildren(...this.#items);
    this.#list.scrollLeft = 0;
    if (slices.length) this.#list.style.setProperty("--threshold", slices[0].threshold);
    this.#observer = new IntersectionObserver((seen) => this.#see(seen, onVisible), { root: this.#list, rootMargin: "0px 200px" });
    for (const item of this.#items) this.#observer.observe(item);
  }

  /** Make a slice the current one. */
  select(index) {
    const to = Math.min(Math.max(index, 0), this.#items.length - 1);
    if (to === this.#current) return;
    for (const [at, item] of this.#items.entries()) {
      item.tabIndex = at === to ? 0 : -1;
      item.setAttribute("aria-selected", at === to);
    }
    const focused = this.#list.contains(document.activeElement);
    this.#current = to;
    const item = this.#items[to];
    if (focused) item.focus({ preventScroll: true });
    const room = this.#list.clientWidth - item.offsetWidth;
    this.#list.scrollLeft = item.offsetLeft - room / 2; // scrollIntoView would move the page as well
    this.#onSelect(to);
  }

  /** Let the wheel over an element go through the slices; at either end it scrolls the page again. */
  scrollWith(target) {
    let turned = 0;
    const turn = (event) => {
      if (event.ctrlKey || this.#items.length < 2) return; // Ctrl and wheel is zoom
      const delta = Math.abs(event.deltaX) > Math.abs(event.deltaY) ? event.deltaX : event.deltaY;
      const atEnd = delta > 0 ? this.#current === this.#items.length - 1 : this.#current === 0;
      if (atEnd) return;
      event.preventDefault();
      turned = Math.sign(turned) === Math.sign(delta) ? turned + delta * (event.deltaMode ? NOTCH : 1) : delta * (event.deltaMode ? NOTCH : 1);
      if (Math.abs(turned) < NOTCH) return;
      this.select(this.#current + Math.sign(turned));
      turned = 0;
    };
    target.addEventListener("wheel", turn, { passive: false });
  }

  #key(event) {
    const step = KEYS[event.key];
    if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.select(this.#current + step);
  }

  #see(seen, onVisible) {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) continue;
      this.#observer.unobserve(target);
      const canvas = target.querySelector("canvas");
      onVisible(this.#items.indexOf(target), (picture) => drawSquare(canvas.getContext("2d"), picture, THUMB));
    }
  }
}

function option(slice, index) {
  const rejected = slice.probability === null;
  const bar = element("span", { class: "bar" });
  if (rejected) bar.append(icon(slice.decision));
  else bar.append(element("span", { class: "fill" }));
  bar.style.setProperty("--probability", slice.probability ?? 0);
  const label = `Slice ${index + 1}, ${DECISIONS[slice.decision].word}${rejected ? "" : `, probability ${number(slice.probability)}`}`;
  const attributes = { role: "option", class: "slice", "data-decision": slice.decision, "aria-label": label, title: label, tabindex: -1 };
  const canvas = element("canvas", { width: THUMB, height: THUMB, "aria-hidden": "true" });
  return element("li", attributes, bar, canvas, element("span", { class: "place", "aria-hidden": "true" }, String(index + 1)));
}
