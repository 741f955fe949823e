// The answer on the page: decision in large words, probability and uncertainty as bars, reasons, details.

import { element, icon } from "./dom.js";
import { DECISIONS, number, referBand, referWords, sentence, thresholdWords } from "./words.js";

/** Fill `card` with the answer about one slice, or about a `series` as a whole; `of` is its title, `extra` goes below. */
export function showAnswer(card, answer, { of, target, series = false, extra = [] }) {
  const { word, says } = DECISIONS[answer.decision];
  const said = element("span", {}, word);
  const scope = series ? "Taken as a whole, " : "";
  card.dataset.decision = answer.decision;
  card.replaceChildren(
    element("p", { class: "of" }, of),
    element("h2", { class: "verdict", tabindex: -1 }, icon(answer.decision), said),
    element("p", { class: "meaning" }, sentence(scope + says(target))),
    ...reasons(answer),
    ...(answer.probability === null ? [element("p", { class: "none" }, "No probability is given for it.")] : probability(answer, series)),
    ...(Number.isFinite(answer.uncertainty?.value) ? uncertainty(answer, series) : []),
    ...extra,
  );
}

function reasons(answer) {
  if (answer.reasons.length === 0) return [];
  const items = answer.reasons.map((reason) => element("li", {}, sentence(reason)));
  return [element("h3", {}, answer.reasons.length > 1 ? "Reasons" : "Reason"), element("ul", { class: "reasons" }, ...items)];
}

function probability(answer, series) {
  const bar = element("div", { class: "gauge probability", "aria-hidden": "true" }, element("span", { class: "fill" }));
  const band = series ? null : referBand(answer); // a series is referred for its slices, not for its own probability
  if (band) {
    const [from, to] = band.map((edge) => number(edge));
    bar.append(element("span", { class: "band" }, element("span", { class: "band-label" }, `refer ${from}–${to}`)));
    bar.style.setProperty("--from", band[0]);
    bar.style.setProperty("--to", band[1]);
  }
  bar.append(tick(answer.threshold, `threshold ${number(answer.threshold)}`));
  bar.style.setProperty("--value", answer.probability);
  return [
    figure("Probability, calibrated", number(answer.probability), "probability"),
    bar,
    ends("0", "1"),
    element("p", { class: "note" }, thresholdWords(answer)),
  ];
}

function uncertainty(answer, series) {
  const { value, refer_above: limit, mc_std, fold_std } = answer.uncertainty;
  const [from, to] = extent(answer.uncertainty);
  const share = (what) => Math.min(Math.max((what - from) / (to - from), 0), 1);
  const bar = element("div", { class: "gauge uncertainty", "aria-hidden": "true" }, element("span", { class: "fill" }));
  bar.append(element("span", { class: "band" }), tick(share(limit), `limit ${number(limit, 3)}`));
  bar.style.setProperty("--value", share(value));
  bar.style.setProperty("--from", share(limit));
  bar.style.setProperty("--to", 1);
  const spreads = [["under dropout", mc_std], ["between the models", fold_std]]
    .filter(([, std]) => Number.isFinite(std))
    .map(([where, std]) => `${number(std, 3)} ${where}`);
  return [
    figure(series ? "Uncertainty of the least sure slice" : "Uncertainty", number(value, 3), "uncertainty"),
    bar,
    ends("sure", "unsure"),
    element("p", { class: "note" }, referWords(answer, series)),
    ...(spreads.length ? [element("p", { class: "note" }, `Standard deviation of the probability: ${spreads.join(", ")}.`)] : []),
  ];
}

/** The ends of the bar of an uncertainty; nearness lies below 0, the other measures above. */
function extent({ value, refer_above: limit, measure }) {
  if (measure === "entropy") return [0, 1];
  return [Math.min(0, 1.2 * value, 1.2 * limit), Math.max(0, 1.2 * value, 1.2 * limit)];
}

function figure(name, value, kind) {
  return element("h3", { class: "figure" }, element("span", {}, name), element("output", { "data-figure": kind }, value));
}

function tick(share, text) {
  const made = element("span", { class: "tick" }, element("span", { class: "tick-label" }, text));
  made.style.setProperty("--at", share);
  return made;
}

function ends(...texts) {
  return element("p", { class: "ends", "aria-hidden": "true" }, ...texts.map((text) => element("span", {}, text)));
}

/** What somebody needs who asks about this answer later. */
export function details(answer, { file, series = false }) {
  const rows = [
    [series ? "Files" : "File", file],
    ["Rule", answer.rule],
    [
      series ? "Share of rejected slices" : "Strangeness to the training slices",
      `${number(answer.ood.score)}, rejected above ${number(answer.ood.threshold)}`,
    ],
    ["Model version", answer.model_version],
    ["Request id", answer.request_id],
    [series ? "SHA-256 over those of the files" : "SHA-256 of the file", answer.input_sha256],
    ["Time taken", Number.isFinite(answer.latency_ms) ? `${number(answer.latency_ms / 1000)} s` : null],
  ].filter(([, value]) => value);
  const list = rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
  return element("details", { class: "details" }, element("summary", {}, "Details"), element("dl", {}, ...list));
}
