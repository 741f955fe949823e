// What the answers mean, in words.

/** By decision: its word, and what it says about a target. */
export const DECISIONS = {
  stroke: { word: "Stroke", says: (target) => `the model finds: ${target}.` },
  normal: { word: "Normal", says: (target) => `the model does not find: ${target}. This does not rule out a stroke.` },
  refer: { word: "Refer", says: () => "the model is not sure enough. A person has to read it." },
  reject: { word: "Rejected", says: () => "not judged: it is not what the model was made for. It gets no label." },
};

const MEASURES = {
  nearness: "nearness of the probability to the threshold",
  entropy: "entropy: how near the probability is to a half",
  mc_std: "spread of the probability under dropout",
  feature_distance: "distance from the training slices",
};

/** A number for people: two decimals, more where they would say 0.00 or 1.00 of what is neither. */
export function number(value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const short = value.toFixed(digits);
  const hidesIt = Number(short) === Math.round(value) && value !== Math.round(value) && Math.abs(value) <= 1;
  const text = hidesIt && digits < 4 ? value.toFixed(4) : short;
  return text.replace("-", "−");
}

/** Where a probability lies to its threshold. */
export function thresholdWords({ probability, threshold }) {
  const side = probability >= threshold ? "at or above" : "below";
  const digits = number(probability) === number(threshold) ? 5 : 2; // "0.35 is below 0.35" would puzzle
  return `${number(probability, digits)} is ${side} the threshold ${number(threshold, digits)}.`;
}

/** The probabilities [from, to] that are referred, where the measure is a function of the probability; else null. */
export function referBand({ uncertainty, threshold }) {
  const limit = uncertainty?.refer_above;
  if (!Number.isFinite(limit)) return null;
  if (uncertainty.measure === "nearness") {
    if (limit >= 0) return null; // nothing is nearer than on the threshold
    const middle = Math.log(threshold / (1 - threshold));
    return [sigmoid(middle + limit), sigmoid(middle - limit)];
  }
  if (uncertainty.measure === "entropy") return limit >= 1 ? null : entropyBand(limit);
  return null;
}

/** The refer rule and where this answer lies to it. In a series the uncertainty is that of a slice, whose probability is elsewhere. */
export function referWords(answer, series) {
  const { value, refer_above: limit, measure } = answer.uncertainty;
  const band = series ? null : referBand(answer);
  const where = band ? `, that is with a probability between ${number(band[0])} and ${number(band[1])}` : "";
  const here = value > limit ? `Above the limit ${number(limit, 3)}, so a person has to read it.` : `Within the limit ${number(limit, 3)}.`;
  return `${here} Answers above it are referred${where}. Measured as ${MEASURES[measure] ?? measure}.`;
}

function entropyBand(limit) {
  let [low, high] = [1e-9, 0.5]; // entropy rises between them
  for (let step = 0; step < 50; step++) {
    const middle = (low + high) / 2;
    const bits = -middle * Math.log2(middle) - (1 - middle) * Math.log2(1 - middle);
    if (bits < limit) low = middle;
    else high = middle;
  }
  return [low, 1 - low];
}

const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));

/** What went wrong: a heading, what it means, and whether trying again may help. */
export function problemWords(error) {
  const said = error.message ? `${sentence(error.message)} ` : "";
  switch (error.status) {
    case 0:
      return { state: "error", title: "The service cannot be reached", text: "Is it running, and is the network there?", again: true };
    case 401:
      return { state: "token", title: "A token is needed", text: said, again: false };
    case 429:
      return { state: "overload", title: "The service is busy", text: "It was asked four times. Please wait a little.", again: true };
    case 503:
      return { state: "not-ready", title: "The model is not ready", text: said || "It is not loaded.", again: true };
    case 504:
      return { state: "error", title: "No answer in time", text: `${said}No label is given.`, again: true };
  }
  if (error.status >= 500) return { state: "error", title: "No result", text: `${said}No label is given.`, again: true };
  return { state: "error", title: "This cannot be read", text: `${said}No label is given.`, again: false };
}

/** A message of the service as a sentence. */
export function sentence(message) {
  return `${message[0].toUpperCase()}${message.slice(1)}${/[.!?]$/.test(message) ? "" : "."}`;
}
