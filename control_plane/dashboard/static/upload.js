// Uploading a version: in parts, so that it goes on where it was after a connection broke.
"use strict";

const PART_BYTES = 8 * 1024 * 1024;
const TRIES = 6;

for (const section of document.querySelectorAll("[data-upload]")) prepare(section);

function prepare(section) {
  for (const chooser of section.querySelectorAll("input[type=file]")) {
    chooser.addEventListener("change", () => {
      const named = [...chooser.files].map((file) => [file.webkitRelativePath || file.name, file]);
      if (named.length) upload(section, named, Boolean(chooser.webkitdirectory));
    });
  }
  section.addEventListener("dragover", (event) => { event.preventDefault(); section.classList.add("over"); });
  section.addEventListener("dragleave", () => section.classList.remove("over"));
  section.addEventListener("drop", (event) => {
    event.preventDefault();
    section.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    const files = [...event.dataTransfer.files].map((file) => [file.name, file]);
    if (entries.length) upload(section, filesIn(entries), entries.some((entry) => entry.isDirectory));
    else if (files.length) upload(section, files, false);
  });
}

// Uploads [name, file] pairs, or a promise of them: one file as it is, and folders or several files as one zip.
async function upload(section, chosen, hasFolder) {
  const progress = section.querySelector(".progress");
  const bar = progress.querySelector("progress");
  const status = progress.querySelector("[role=status]");
  const stopping = new AbortController();
  progress.hidden = false;
  const stop = progress.querySelector("[data-stop]");
  stop.hidden = false;
  stop.onclick = () => stopping.abort();
  const leaving = (event) => event.preventDefault();
  addEventListener("beforeunload", leaving);
  try {
    const versions = `${section.dataset.upload}/model_versions`;
    const token = section.dataset.formToken;
    const description = section.querySelector("#upload-description").value;
    const file = await packed(section, await chosen, hasFolder, stopping.signal, (read, total) => {
      bar.value = total ? read / total : 1;
      status.textContent = `Reading: ${Math.floor(100 * bar.value)} % of ${size(total)}`;
    });
    const begun = await call("post", versions, token, {filename: file.name, ...(description && {description})});
    // The address names the host that clients reach us by; the dashboard may be reached by another.
    const address = new URL(begun.presigned_url);
    await send(`${address.pathname}${address.search}`, file, stopping.signal, (sent) => {
      bar.value = file.size ? sent / file.size : 1;
      status.textContent = `${Math.floor(100 * bar.value)} % of ${size(file.size)}`;
    });
    status.textContent = "Looking into the file …";
    const made = await call("patch", `${versions}/${begun.model_version_id}`, token, {filepath: begun.filepath});
    removeEventListener("beforeunload", leaving);
    location.assign(`${section.dataset.upload}/versions/${made.version}`);
  } catch (error) {
    removeEventListener("beforeunload", leaving);
    status.textContent = stopping.signal.aborted ? "Stopped." : error.message;
    stop.hidden = true;
  }
}

async function packed(section, named, hasFolder, signal, tell) {
  if (!named.length) throw new Error("There is nothing to upload: the folder holds no file.");
  if (named.length === 1 && !hasFolder) return named[0][1];
  return new File([await zipOf(named, signal, tell)], `${section.dataset.model}.zip`);
}

// Sends what is missing, part by part; after a failure it asks how much is there, and goes on from there.
async function send(address, file, signal, tell) {
  let at = 0;
  let failures = 0;
  tell(0);
  do {
    try {
      const end = Math.min(at + PART_BYTES, file.size);
      const whole = at === 0 && end === file.size;
      const headers = whole ? {} : {"Content-Range": `bytes ${at}-${end - 1}/${file.size}`};
      const answer = await fetch(address, {method: "PUT", body: file.slice(at, end), headers, signal});
      if (answer.ok) return tell(file.size);
      if (answer.status !== 308) throw await refusal(answer);
      at = Number(answer.headers.get("Upload-Offset") ?? end);
      failures = 0;
      tell(at);
    } catch (error) {
      if (signal.aborted || error.final || ++failures >= TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * 2 ** failures));
      at = await howFar(address, file.size, signal) ?? at;
    }
  } while (at < file.size);
}

async function howFar(address, length, signal) {
  try {
    const answer = await fetch(address, {method: "PUT", headers: {"Content-Range": `bytes */${length}`}, signal});
    return Number(answer.headers.get("Upload-Offset") ?? 0);
  } catch {
    return null;
  }
}

async function call(method, path, token, body) {
  const answer = await fetch(`/do/${method}/v2${path}`, {
    method: "POST",
    headers: {"Content-Type": "application/json", "X-Form-Token": token},
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
}

async function refusal(answer) {
  let sentence = `The server answered with status ${answer.status}.`;
  try {
    sentence = (await answer.json()).error;
  } catch { /* the sentence above tells it */ }
  const error = new Error(sentence);
  error.final = answer.status < 500 && answer.status !== 408 && answer.status !== 429;
  return error;
}

function size(bytes) {
  return new Intl.NumberFormat(undefined, {style: "unit", unit: "megabyte", maximumFractionDigits: 1}).format(bytes / 1e6);
}
