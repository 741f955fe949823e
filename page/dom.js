// Elements made in code. Text goes in as text only, whatever it holds.

const SVG = "http://www.w3.org/2000/svg";

/** The element of this page with an id. */
export const byId = (id) => document.getElementById(id);

/** A new element with attributes and children (elements or text). */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** One of the symbols in index.html, for eyes only: the word next to it says the same. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}
