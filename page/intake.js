// From what was dropped or picked to the slices that are sent: folders walked, zips opened, kinds told apart by content.

import { ZipError, readZip, writeZip } from "./zip.js";

const MAX_FILES = 2000; // of a folder or zip; how many slices it takes is for the service to say
const MAX_UNZIPPED = 1024 * 2 ** 20;

/** What was given cannot be sent; the message says why, in words. */
export class IntakeError extends Error {}

/**
 * What was dropped, as a function that gives its files, and gives them anew for a second try.
 * To be called while the drop event is handled: its items are gone afterwards.
 */
export function dropped(transfer) {
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry());
  return async () => (await Promise.all(entries.filter(Boolean).map(walk))).flat();
}

/** The same for files of a picker. */
export function picked(list) {
  const files = [...list];
  return async () => files.map((file) => ({ name: file.webkitRelativePath || file.name, blob: file }));
}

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ name: entry.fullPath.replace(/^\//, ""), blob: file }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
    if (some.length === 0) return found;
    for (const child of some) found.push(...(await walk(child)));
    if (found.length > MAX_FILES) throw new IntakeError(`The folder holds more than ${MAX_FILES} files.`);
  }
}

/**
 * Open the zips among the given files and put the rest in the order of their names.
 *
 * Gives { title, slices: [{ name, blob }] | null, sent: [Blob] }. `slices` is null where a zip could not be opened here: it is then
 * sent as it is, `why` says what the matter was, and no picture can be shown, because the numbers in the answer are the service's.
 */
export async function gather(given, { onStep, signal }) {
  if (given.length === 0) throw new IntakeError("There is no file in it.");
  if (given.length > MAX_FILES) throw new IntakeError(`More than ${MAX_FILES} files.`);
  const sorted = [...given].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  const title = titleOf(sorted);
  const slices = [];
  try {
    for (const file of sorted) {
      if ((await kindOf(file.blob)) !== "zip") {
        slices.push(file);
        continue;
      }
      const onFile = (done, of) => onStep("Opening the zip", done / of);
      slices.push(...(await readZip(file.blob, { maxFiles: MAX_FILES, maxBytes: MAX_UNZIPPED, onFile, signal })));
    }
    for (const { blob } of slices) if ((await kindOf(blob)) === "zip") throw new ZipError("there is a zip inside it");
  } catch (error) {
    if (!(error instanceof ZipError)) throw error;
    return { title, slices: null, why: error.message, sent: sorted.map((file) => file.blob) };
  }
  if (slices.length === 0) throw new IntakeError("There is no file in it.");
  return { title, slices, sent: slices.map((slice) => slice.blob) };
}

/** The blobs of a series as they go out: as they are, or zipped under neutral names where that is needed to fit `maxBytes`. */
export async function packed(blobs, maxBytes, { onStep, signal }) {
  const margin = 2 ** 16 + 256 * blobs.length; // what multipart adds
  const size = (parts) => parts.reduce((sum, part) => sum + part.size, margin);
  if (size(blobs) <= maxBytes) return blobs;
  if (blobs.length > 1 && typeof CompressionStream !== "undefined") {
    blobs = [await writeZip(blobs, { onFile: (done, of) => onStep("Packing the series", done / of), signal })];
  }
  if (size(blobs) <= maxBytes) return blobs;
  const mib = (bytes) => Math.ceil(bytes / 2 ** 20);
  throw new IntakeError(`This is ${mib(size(blobs))} MiB; the service takes ${mib(maxBytes)} MiB at a time.`);
}

/** "dicom", "picture" (PNG or JPEG), "zip" or "" by the first bytes, as the service tells them apart. */
export async function kindOf(blob) {
  const bytes = new Uint8Array(await blob.slice(0, 132).arrayBuffer());
  const starts = (...signature) => signature.every((byte, place) => bytes[place] === byte);
  if (bytes.length === 132 && String.fromCharCode(...bytes.slice(128)) === "DICM") return "dicom";
  if (starts(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a) || starts(0xff, 0xd8, 0xff)) return "picture";
  return starts(0x50, 0x4b, 3, 4) || starts(0x50, 0x4b, 5, 6) ? "zip" : "";
}

/** What to call it on this page: the name of the one file, the folder that everything is in, or how many files. */
function titleOf(files) {
  if (files.length === 1) return files[0].name.split("/").pop();
  const folder = files[0].name.split("/")[0];
  return files.every((file) => file.name.startsWith(`${folder}/`)) ? folder : `${files.length} files`;
}
