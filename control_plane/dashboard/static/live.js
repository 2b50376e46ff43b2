// Pages that follow what happens: the server says that something has changed, and the parts that may have are fetched anew.
// A page that nobody sees follows nothing, and asks once it is seen again.
"use strict";

const followed = document.querySelector("[data-live]");
let stream = null;
if (followed && document.querySelector("[data-fresh], #figures")) {
  if (!document.hidden) follow();
  document.addEventListener("visibilitychange", () => {
    leave();
    if (document.hidden) return;
    follow();
    ask();
  });
  addEventListener("pagehide", leave);
}

function follow() {
  stream = new EventSource(followed.dataset.live);
  stream.addEventListener("change", ask);
  // The browser comes back by itself after a broken line; what happened meanwhile was not told.
  let broken = false;
  stream.addEventListener("error", () => { broken = true; });
  stream.addEventListener("open", () => { if (broken) ask(); broken = false; });
}

function leave() {
  stream?.close();
  stream = null;
}

// One question at a time, and the next one after a pause: what the page wants, and ten times as long as the answer took.
let asking = false;
let changed = false;
let notBefore = 0;
async function ask() {
  changed = true;
  if (asking) return;
  asking = true;
  while (changed) {
    await new Promise((resolve) => setTimeout(resolve, notBefore - performance.now()));
    if (document.hidden) break;
    changed = false;
    const began = performance.now();
    try {
      await refresh();
    } catch (error) {
      console.info(error); // the line is broken: once it is there again, the page asks again
    }
    const ended = performance.now();
    notBefore = ended + Math.max(Number(followed.dataset.pause ?? 0), 10 * (ended - began));
  }
  asking = false;
}

async function refresh() {
  const answer = await fetch(location.href, {headers: {Accept: "text/html"}});
  if (!answer.ok || answer.redirected) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-fresh]")) {
    const fresh = page.getElementById(part.id);
    // What somebody is in the midst of is left alone until the next change.
    if (!fresh || part.contains(document.activeElement) && document.activeElement !== document.body
        || part.querySelector("details[open]")) continue;
    part.replaceChildren(...fresh.childNodes);
    showTimes(part);
    labelCells(part);
  }
  document.dispatchEvent(new CustomEvent("fresh", {detail: page}));
}
