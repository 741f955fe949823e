// What GET /model says about the model, on the page.

import { byId, element } from "./dom.js";
import { number } from "./words.js";

const FIGURES = { roc_auc: "ROC AUC", sensitivity: "Sensitivity", specificity: "Specificity" };

/** Put the model's target, its warnings and what else is known about it on the page. */
export function showModel(model) {
  byId("target").textContent = model.target;
  const warnings = model.warnings ?? [];
  byId("warnings").replaceChildren(...warnings.map((warning) => element("li", {}, warning)));
  byId("warnings").hidden = warnings.length === 0;
  byId("about-use").textContent = plain(model.intended_use ?? "");
  byId("about-scope").replaceChildren(...(model.out_of_scope ?? []).map((line) => element("li", {}, plain(line))));
  byId("about-figures").replaceChildren(...figures(model.metrics));
  const rows = [
    ["Version", model.version],
    ["Network", model.backbone],
    ["Models", model.models?.length],
    ["Trained on", model.data?.source],
    ["Threshold of a slice", number(model.thresholds?.slice?.threshold)],
    ["Threshold of a patient", number(model.thresholds?.patient?.threshold)],
  ].filter(([, value]) => value);
  byId("about-list").replaceChildren(
    ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]),
  );
  byId("about").hidden = false;
}

/** The service writes names of fields as Markdown does. */
const plain = (text) => text.replaceAll("`", "");

function figures(metrics) {
  const known = Object.keys(FIGURES).filter((key) => metrics?.slice?.[key] && metrics?.patient?.[key]);
  if (known.length === 0) return [];
  const cell = ({ value, ci95 }) => {
    if (value === null) return "not estimable"; // one class only, or nothing to rank
    return ci95 ? `${number(value)} [${number(ci95[0])}, ${number(ci95[1])}]` : `${number(value)} [no interval]`;
  };
  const rows = known.map((key) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, FIGURES[key]),
      element("td", {}, cell(metrics.slice[key])),
      element("td", {}, cell(metrics.patient[key])),
    ),
  );
  const columns = ["slice", "patient"].map((name) => element("th", { scope: "col" }, name));
  const head = element("tr", {}, element("td"), ...columns);
  const caption = element("caption", {}, "Measured with 95 % intervals by patient");
  return [element("table", {}, caption, element("thead", {}, head), element("tbody", {}, ...rows))];
}
