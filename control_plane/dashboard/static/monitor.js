// Monitor follows what devices report: a figure that is another now takes the place of the one on the page.
// Its chart is drawn anew, and what its reader has opened, hidden or scrolled to stays so.
"use strict";

document.addEventListener("fresh", ({detail: page}) => {
  const shown = document.getElementById("figures");
  const fresh = page.getElementById("figures");
  if (!shown || !fresh) return;
  if (isEmpty(shown) || isEmpty(fresh)) {
    if (isEmpty(shown) && isEmpty(fresh)) return;
    shown.replaceChildren(...fresh.childNodes);
    labelCells(shown);
    showWithin(shown, page);
    return;
  }
  for (const section of fresh.querySelectorAll(".monitor")) renew(document.getElementById(section.id), section, page);
});

const isEmpty = (figures) => figures.querySelector(".monitor") === null;

// What a figure says, but for its chart, which says the same.
const told = (section) => [...section.children].map((part) => (part.matches(".chart") ? "" : part.textContent)).join();

function renew(shown, fresh, page) {
  // What could not be asked for this once is no reason to take away what is there.
  const lost = fresh.dataset.state === "away" && shown.dataset.state !== "away";
  if (lost || told(shown) === told(fresh)) return;
  const [tables, others] = [shown, fresh].map((section) => [...section.querySelectorAll("table")]);
  if (shown.dataset.state !== "data" || fresh.dataset.state !== "data" || tables.length !== others.length) {
    shown.replaceWith(fresh);
    labelCells(fresh);
    showWithin(fresh, page);
    return;
  }
  shown.querySelector(".lead").replaceWith(fresh.querySelector(".lead"));
  tables.forEach((table, at) => table.replaceWith(others[at]));
  labelCells(shown);
  if (typeof show !== "undefined") show(shown.querySelector(".chart"));
}

// The first charts of a page bring the scripts that draw, which show them then.
function showWithin(part, page) {
  if (typeof show !== "undefined") {
    for (const place of part.querySelectorAll(".chart")) show(place);
    return;
  }
  const present = new Set([...document.scripts].map((script) => script.src));
  for (const {src} of page.querySelectorAll("script[src]")) {
    const script = document.createElement("script");
    script.src = src;
    script.async = false; // in their order
    if (!present.has(script.src)) document.head.append(script);
  }
}
