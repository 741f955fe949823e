// The page: takes a scan in, has it judged, shows the answer. What it knows is gone with the tab.

import { showModel } from "./about.js";
import { byId, element, icon } from "./dom.js";
import { dropped, gather, IntakeError, packed, picked } from "./intake.js";
import { BRAIN, Pictures } from "./pictures.js";
import { details, showAnswer } from "./result.js";
import { getJson, hasToken, postJson, setToken } from "./service.js";
import { Strip } from "./strip.js";
import { DECISIONS, number, problemWords, sentence } from "./words.js";
import { SliceView } from "./slice_view.js";

const MAX_BODY_MIB = 25; // where GET /model does not say
const STATES = { stroke: "stroke", normal: "normal", refer: "referred", reject: "rejected" };
const NAMES = ["loading-name", "problem-name", "scan-name"];
const PANELS = ["loading", "problem", "token", "scan"];

const state = { model: null, history: [], scan: null, job: null, retry: null };
const sliceView = new SliceView();
const strip = new Strip(byId("strip"), showSlice);

/** Show one state of the page: the panels that belong to it and no other, so that no old answer stands beside a new scan. */
function enter(name, panel = "") {
  document.body.dataset.state = name;
  for (const id of PANELS) byId(id).hidden = id !== panel;
  if (panel !== "scan") sliceView.close();
}

function announce(text) {
  byId("announce").textContent = text;
}

/** Ask GET /model; it also tells whether the service is ready and lets this page in. */
async function loadModel() {
  try {
    state.model = await getJson("/model");
    showModel(state.model);
    return true;
  } catch (error) {
    byId("target").textContent = "not known yet";
    showProblem(error, "", start);
    return false;
  }
}

async function start() {
  enter("start");
  if (await loadModel()) enter("start");
}

/** Take a scan in: `source` gives its files, and gives them again when it is tried again. */
async function take(source) {
  state.job?.abort();
  const job = new AbortController();
  state.job = job;
  const again = () => take(source);
  const stop = showLoading();
  let name = "";
  try {
    const upload = await gather(await source(), { onStep: step, signal: job.signal });
    job.signal.throwIfAborted();
    name = byId("loading-name").textContent = upload.title;
    const scan = await judge(upload, job.signal);
    job.signal.throwIfAborted();
    remember(scan);
    show(scan, { fresh: true });
  } catch (error) {
    if (job.signal.aborted) return; // cancelled, or another scan has been dropped meanwhile
    showProblem(error, name, again);
  } finally {
    stop();
  }
}

async function judge(upload, signal) {
  const options = { signal, onSent: sent, onWait: waiting };
  const scan = { title: upload.title, time: new Date(), why: upload.why, leftOut: [] };
  if (upload.slices?.length === 1) {
    const answer = await postJson("/predict", "image", upload.sent, options);
    return { ...scan, answer, slices: [{ ...answer, number: 0 }], files: upload.slices };
  }
  const limit = (state.model?.settings?.STROKECT_MAX_BODY_MB ?? MAX_BODY_MIB) * 2 ** 20;
  const parts = upload.slices ? await packed(upload.sent, limit, { onStep: step, signal }) : upload.sent;
  const answer = await postJson("/predict_series", "series", parts, options);
  const slices = [...answer.slices].sort((a, b) => a.position - b.position);
  return { ...scan, answer, series: true, slices, files: upload.slices, leftOut: answer.left_out };
}

/** Show the loading panel; gives the function that stops its clock. */
function showLoading() {
  enter("loading", "loading");
  byId("loading-name").textContent = "";
  step("Opening the files");
  byId("loading-time").textContent = "";
  byId("loading-title").focus();
  announce("Reading the scan.");
  const since = performance.now();
  const tell = () => (byId("loading-time").textContent = `${Math.round((performance.now() - since) / 1000)} s`);
  const clock = setInterval(tell, 1000);
  return () => clearInterval(clock);
}

function step(words, share) {
  byId("loading-step").textContent = words;
  if (share === undefined) byId("loading-bar").removeAttribute("value");
  else byId("loading-bar").value = share;
}

function sent(share) {
  if (share < 1) step("Sending", share);
  else step("The model is looking at it");
}

function waiting(seconds, attempt) {
  document.body.dataset.state = "overload";
  step(`The service is busy. Trying again in ${seconds} s (${attempt} of 3).`);
}

function showProblem(error, name, again) {
  const own = error instanceof IntakeError;
  const known = own || error.status !== undefined;
  if (!known) console.error(error); // a fault of this page
  const unread = { state: "error", title: "This cannot be read", text: "The file could not be opened.", again: true };
  const words = own ? { ...unread, text: error.message, again: false } : known ? problemWords(error) : unread;
  state.retry = again;
  if (words.state === "token") {
    enter("token", "token");
    byId("token-wrong").hidden = !hasToken();
    byId("token-field").focus();
    announce(words.title);
    return;
  }
  enter(words.state, "problem");
  byId("problem-title").replaceChildren(icon("error"), element("span", {}, words.title));
  byId("problem-name").textContent = name;
  byId("problem-text").textContent = words.text;
  byId("problem-id").textContent = error.requestId ? `Request id for whoever runs the service: ${error.requestId}` : "";
  byId("again").hidden = !words.again;
  byId("problem-title").focus();
  announce(`${words.title}. ${words.text}`);
}

/** Put a judged scan on the page. */
function show(scan, { fresh = false } = {}) {
  state.scan = scan;
  scan.pictures ??= scan.files && new Pictures(scan.files.map((file) => file.blob));
  enter(STATES[scan.answer.decision], "scan");
  const [series, slice, viewing] = ["series-card", "slice-card", "viewing"].map(byId);
  byId("scan").classList.toggle("is-series", Boolean(scan.series));
  // The order of reading: the answer first; in a series the slice's own follows the picture that it belongs to.
  if (scan.series) series.after(viewing, slice);
  else series.after(slice, viewing);
  byId("scan-name").textContent = scan.title;
  byId("strip-part").hidden = series.hidden = !scan.series;
  if (scan.series) showSeries(series, scan);
  showLeftOut(scan);
  const signal = sliceView.open(scan);
  const draw = (index, onPicture) => scan.pictures?.later(scan.slices[index].number, signal, onPicture);
  strip.fill(scan.series ? scan.slices : [], draw);
  viewing.hidden = slice.hidden = scan.slices.length === 0; // every file of a series may have been left out
  if (scan.series) strip.select(mostTelling(scan.slices));
  else showSlice(0);
  markHistory();
  if (fresh) {
    byId("scan").querySelector(".card:not([hidden]) .verdict").focus({ preventScroll: true });
    byId("scan").scrollIntoView({ block: "nearest" });
  }
  const { decision, probability } = scan.answer;
  const chance = probability === null ? "" : ` Probability ${number(probability)}, threshold ${number(scan.answer.threshold)}.`;
  announce(`${scan.series ? "Series" : "Slice"}: ${DECISIONS[decision].word}.${chance} ${scan.answer.reasons.join(". ")}`);
}

/** The slice to begin with: the most probable one, or the middle where none was judged. */
function mostTelling(slices) {
  const best = slices.reduce((found, slice, index) => (slice.probability > (slices[found]?.probability ?? -1) ? index : found), -1);
  return best < 0 ? Math.floor(slices.length / 2) : best;
}

function showSeries(card, scan) {
  const { answer } = scan;
  const counts = Object.keys(STATES)
    .map((decision) => [scan.slices.filter((slice) => slice.decision === decision).length, DECISIONS[decision].word.toLowerCase()])
    .filter(([count]) => count);
  const summary = `${scan.slices.length} slices: ${counts.map(([count, word]) => `${count} ${word}`).join(", ")}.`;
  const extra = [element("p", { class: "note" }, summary), details(answer, { file: scan.title, series: true })];
  showAnswer(card, answer, { of: `The series, ${scan.slices.length} slices`, series: true, target: answer.target, extra });
}

function showLeftOut(scan) {
  const panel = byId("left-out");
  panel.hidden = scan.leftOut.length === 0;
  panel.open = scan.leftOut.length <= 5;
  const many = scan.leftOut.length > 1;
  panel.querySelector("summary").textContent = `${scan.leftOut.length} file${many ? "s" : ""} left out of the series`;
  const name = (number) => scan.files?.[number]?.name ?? `file ${number + 1}`;
  const items = scan.leftOut.map((file) => element("li", {}, element("strong", {}, name(file.number)), `: ${sentence(file.message)}`));
  panel.querySelector("ul").replaceChildren(...items);
}

/** Show one slice of the scan that is on the page. */
function showSlice(index) {
  const { scan } = state;
  const slice = scan.slices[index];
  const of = scan.series ? `Slice ${index + 1} of ${scan.slices.length}` : "This slice";
  const file = scan.files?.[slice.number]?.name ?? `file ${slice.number + 1}`;
  showAnswer(byId("slice-card"), slice, { of, target: scan.answer.target, extra: [details(slice, { file })] });
  sliceView.show(scan, slice, of);
}

function remember(scan) {
  state.history.unshift(scan);
  byId("history").hidden = false;
  const time = scan.time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const { decision, probability } = scan.answer;
  const words = `${DECISIONS[decision].word}${probability === null ? "" : ` ${number(probability)}`}`;
  const button = element("button", { type: "button", "data-decision": decision });
  button.append(icon(decision), element("strong", {}, words), element("span", {}, scan.title), element("time", {}, time));
  button.addEventListener("click", () => {
    state.job?.abort();
    show(scan, { fresh: true });
  });
  byId("history-list").prepend(element("li", {}, button));
}

function markHistory() {
  for (const [index, { firstChild: button }] of [...byId("history-list").children].entries()) {
    button.toggleAttribute("aria-current", state.history[index] === state.scan);
  }
}

function clear() {
  state.job?.abort();
  Object.assign(state, { history: [], scan: null, retry: null });
  byId("history").hidden = true;
  for (const id of ["history-list", "series-card", "slice-card", ...NAMES]) byId(id).replaceChildren();
  byId("left-out").querySelector("ul").replaceChildren();
  strip.fill([], () => {});
  enter("start");
  sliceView.clear();
  byId("pick-files").focus();
  announce("Everything of this session is cleared.");
}

/** Back to what was there before: the scan on the page, or the start. */
function back() {
  state.job?.abort();
  if (state.scan) show(state.scan, { fresh: true });
  else {
    enter("start");
    byId("pick-files").focus();
  }
}

function wire() {
  for (const [button, input] of [["pick-files", "files"], ["pick-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", () => {
      if (byId(input).files.length) take(picked(byId(input).files));
      byId(input).value = ""; // so that the same file can be picked again
    });
  }
  byId("cancel").addEventListener("click", back);
  byId("dismiss").addEventListener("click", back);
  byId("again").addEventListener("click", () => state.retry());
  byId("clear").addEventListener("click", clear);
  byId("print").addEventListener("click", () => window.print());
  byId("token").addEventListener("submit", async (event) => {
    event.preventDefault();
    setToken(byId("token-field").value.trim());
    byId("token-field").value = "";
    const { retry } = state;
    if (await loadModel()) retry();
    else state.retry = retry;
  });
  strip.scrollWith(byId("canvas"));
  wireDrop();
}

/** The whole window takes a drop: a file that misses the frame would otherwise replace the page. */
function wireDrop() {
  const veil = (shown) => document.body.classList.toggle("dragging", shown);
  for (const kind of ["dragenter", "dragover"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      veil(event.dataTransfer.types.includes("Files"));
    });
  }
  addEventListener("dragleave", (event) => event.relatedTarget === null && veil(false)); // it left the window, not an element in it
  addEventListener("drop", (event) => {
    event.preventDefault();
    veil(false);
    if (event.dataTransfer.types.includes("Files")) take(dropped(event.dataTransfer));
  });
}

wire();
start();
