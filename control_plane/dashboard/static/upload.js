// Uploading a version: in parts, so that it goes on where it was after a connection broke.
"use strict";

const PART_BYTES = 8 * 1024 * 1024;
const TRIES = 6;

for (const section of document.querySelectorAll("[data-upload]")) prepare(section);

function prepare(section) {
  const chooser = section.querySelector("input[type=file]");
  chooser.addEventListener("change", () => { if (chooser.files.length) upload(section, chooser.files[0]); });
  section.addEventListener("dragover", (event) => { event.preventDefault(); section.classList.add("over"); });
  section.addEventListener("dragleave", () => section.classList.remove("over"));
  section.addEventListener("drop", (event) => {
    event.preventDefault();
    section.classList.remove("over");
    if (event.dataTransfer.files.length) upload(section, event.dataTransfer.files[0]);
  });
}

async function upload(section, file) {
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
