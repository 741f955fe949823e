// A small zip reader and writer: stored and deflated members, no encryption, no zip64. The browser inflates and deflates.

const END = 0x06054b50; // end of central directory
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const END_BYTES = 22;
const MAX_COMMENT = 0xffff;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** A zip that this page does not open; the message says why, in words. */
export class ZipError extends Error {}

/**
 * The files of a zip in the order of its central directory, folders left out: [{ name, blob }].
 * Nothing is inflated beyond the size that the directory declares, and nothing at all where those sizes pass the caps.
 */
export async function readZip(zip, { maxFiles, maxBytes, onFile = () => {}, signal }) {
  const entries = (await readDirectory(zip, maxFiles)).filter((entry) => !entry.name.endsWith("/"));
  if (entries.reduce((sum, entry) => sum + entry.size, 0) > maxBytes) throw new ZipError("what it holds is too large");
  const files = [];
  for (const entry of entries) {
    signal?.throwIfAborted();
    files.push({ name: entry.name, blob: await readEntry(zip, entry) });
    onFile(files.length, entries.length);
  }
  return files;
}

async function readDirectory(zip, maxFiles) {
  const tail = await view(zip, Math.max(0, zip.size - END_BYTES - MAX_COMMENT), zip.size);
  let end = tail.byteLength - END_BYTES;
  while (end >= 0 && tail.getUint32(end, true) !== END) end--;
  if (end < 0) throw new ZipError("it is damaged");
  const count = tail.getUint16(end + 10, true);
  const size = tail.getUint32(end + 12, true);
  const offset = tail.getUint32(end + 16, true);
  if (count === 0xffff || offset === 0xffffffff) throw new ZipError("it is in the zip64 format");
  if (count > maxFiles) throw new ZipError(`it holds more than ${maxFiles} files`);
  if (offset + size > zip.size) throw new ZipError("it is damaged");
  const directory = await view(zip, offset, offset + size);
  const entries = [];
  for (let at = 0; entries.length < count; ) {
    if (at + 46 > directory.byteLength || directory.getUint32(at, true) !== ENTRY) throw new ZipError("it is damaged");
    const nameLength = directory.getUint16(at + 28, true);
    entries.push({
      flags: directory.getUint16(at + 8, true),
      method: directory.getUint16(at + 10, true),
      crc: directory.getUint32(at + 16, true),
      packed: directory.getUint32(at + 20, true),
      size: directory.getUint32(at + 24, true),
      offset: directory.getUint32(at + 42, true),
      name: new TextDecoder().decode(new Uint8Array(directory.buffer, at + 46, Math.min(nameLength, directory.byteLength - at - 46))),
    });
    at += 46 + nameLength + directory.getUint16(at + 30, true) + directory.getUint16(at + 32, true);
  }
  return entries;
}

async function readEntry(zip, entry) {
  if (entry.flags & 1) throw new ZipError("it is encrypted");
  if (entry.method !== 0 && entry.method !== 8) throw new ZipError("it is compressed by an unusual method");
  const local = await view(zip, entry.offset, entry.offset + 30);
  if (local.byteLength < 30 || local.getUint32(0, true) !== LOCAL) throw new ZipError("it is damaged");
  const start = entry.offset + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  const packed = zip.slice(start, start + entry.packed);
  const chunks = await readCapped(entry.method === 8 ? inflate(packed) : packed.stream(), entry.size);
  if (crc32(chunks) !== entry.crc) throw new ZipError("it is damaged");
  return new Blob(chunks);
}

function inflate(packed) {
  if (typeof DecompressionStream === "undefined") throw new ZipError("this browser cannot inflate it");
  return packed.stream().pipeThrough(new DecompressionStream("deflate-raw"));
}

async function readCapped(stream, size) {
  const reader = stream.getReader();
  const chunks = [];
  let got = 0;
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      got += part.value.length;
      if (got > size) throw new ZipError("a file in it is larger than the zip says");
      chunks.push(part.value);
    }
  } catch (error) {
    await reader.cancel().catch(() => {}); // a stream that failed cannot be cancelled either
    throw error instanceof ZipError ? error : new ZipError("it is damaged");
  }
  if (got < size) throw new ZipError("it is damaged");
  return chunks;
}

/** A zip of the blobs under the names "slice-0", "slice-1", …: a large series is sent as one, because CT halves in size. */
export async function writeZip(blobs, { onFile = () => {}, signal } = {}) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [number, blob] of blobs.entries()) {
    signal?.throwIfAborted();
    const name = new TextEncoder().encode(`slice-${number}`);
    const bytes = new Uint8Array(await blob.arrayBuffer());
    const packed = await new Response(new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate-raw"))).blob();
    const common = [[2, 20], [2, 0], [2, 8], [2, 0], [2, 0x21], [4, crc32([bytes])], [4, packed.size], [4, bytes.length]];
    const local = header([[4, LOCAL], ...common, [2, name.length], [2, 0]]);
    parts.push(local, name, packed);
    const place = [[2, name.length], [2, 0], [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]];
    directory.push(header([[4, ENTRY], [2, 20], ...common, ...place]), name);
    offset += local.length + name.length + packed.size;
    onFile(number + 1, blobs.length);
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = header([[4, END], [2, 0], [2, 0], [2, blobs.length], [2, blobs.length], [4, size], [4, offset], [2, 0]]);
  return new Blob([...parts, ...directory, end]);
}

/** Little-endian fields, each [bytes, value]. */
function header(fields) {
  const bytes = new DataView(new ArrayBuffer(fields.reduce((sum, [length]) => sum + length, 0)));
  let at = 0;
  for (const [length, value] of fields) {
    if (length === 2) bytes.setUint16(at, value, true);
    else bytes.setUint32(at, value, true);
    at += length;
  }
  return new Uint8Array(bytes.buffer);
}

function crc32(chunks) {
  let crc = 0xffffffff;
  for (const chunk of chunks) for (const byte of chunk) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}

async function view(blob, start, end) {
  return new DataView(await blob.slice(start, end).arrayBuffer());
}
