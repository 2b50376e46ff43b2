// One zip of files and folders, as `skafos upload` packs them: names in order, one fixed time. Nothing is compressed, as
// weights hardly shrink, and nothing is copied: the zip is a list of parts of the files as they lie on the disk.
// The format is PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16.
"use strict";

// Its fields have 32 and 16 bits; the directory behind the files takes some megabytes.
const MAX_ZIP_BYTES = 2 ** 32 - 2 ** 24;
const MAX_ZIP_FILES = 2 ** 16 - 1;
const UTF8_NAMES = 0x0800;
const FIRST_DAY = 0x0021; // 1980-01-01

const CRC_TABLE = Uint32Array.from({length: 256}, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value >>> 0;
});

// Returns the zip of [name, file] pairs; tells how many of all bytes were read.
async function zipOf(named, signal, tell) {
  const total = named.reduce((sum, [, file]) => sum + file.size, 0);
  if (total > MAX_ZIP_BYTES || named.length > MAX_ZIP_FILES) {
    throw new Error("A browser packs at most 4 GB and 65,535 files. Use: skafos upload");
  }
  const parts = [];
  const directory = [];
  let offset = 0;
  let read = 0;
  for (const [name, file] of [...named].sort(([one], [other]) => (one < other ? -1 : 1))) {
    const text = new TextEncoder().encode(name);
    const crc = await crc32(file, signal, (bytes) => tell((read += bytes), total));
    const known = [20, UTF8_NAMES, 0, 0, FIRST_DAY, [crc], [file.size], [file.size], text.length, 0];
    const local = numbers([[0x04034b50], ...known]);
    parts.push(local, text, file);
    directory.push(numbers([[0x02014b50], 20, ...known, 0, 0, 0, [0], [offset]]), text);
    offset += local.length + text.length + file.size;
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  const end = numbers([[0x06054b50], 0, 0, named.length, named.length, [length], [offset], 0]);
  return new Blob([...parts, ...directory, end]);
}

// Little-endian: numbers of two bytes, and in brackets of four.
function numbers(values) {
  const bytes = new DataView(new ArrayBuffer(values.reduce((sum, value) => sum + (Array.isArray(value) ? 4 : 2), 0)));
  let at = 0;
  for (const value of values) {
    if (Array.isArray(value)) bytes.setUint32(at, value[0], true);
    else bytes.setUint16(at, value, true);
    at += Array.isArray(value) ? 4 : 2;
  }
  return new Uint8Array(bytes.buffer);
}

async function crc32(file, signal, tell) {
  let crc = 0xffffffff;
  const reader = file.stream().getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    signal.throwIfAborted();
    for (const byte of piece.value) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
    tell(piece.value.length);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

// Returns [name, file] pairs of what was dropped; the entries have to be taken while the event lasts.
async function filesIn(entries, above = "") {
  const found = [];
  for (const entry of entries) {
    const name = `${above}${entry.name}`;
    if (entry.isFile) found.push([name, await new Promise((resolve, reject) => entry.file(resolve, reject))]);
    else found.push(...(await filesIn(await entriesIn(entry.createReader()), `${name}/`)));
  }
  return found;
}

// A reader gives a hundred at a time, and none when there are no more.
async function entriesIn(reader) {
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all;
    all.push(...some);
  }
}
