// Pages that follow what happens: the server says that something has changed, and the parts that may have are fetched anew.
"use strict";

const followed = document.querySelector("[data-live]");
if (followed && document.querySelector("[data-fresh]")) {
  const stream = new EventSource(followed.dataset.live);
  stream.addEventListener("change", refresh);
  // The browser comes back by itself after a broken line; what happened meanwhile was not told.
  let broken = false;
  stream.addEventListener("error", () => { broken = true; });
  stream.addEventListener("open", () => { if (broken) refresh(); broken = false; });
  addEventListener("pagehide", () => stream.close());
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
}
