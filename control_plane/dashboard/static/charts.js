// Draws the charts with Bokeh, each from JSON of its own. Without this, the tables tell the same.
"use strict";

const views = new Map();
const items = new Map();

async function draw(place) {
  if (typeof Bokeh === "undefined") return openTable(place);
  place.hidden = false;
  try {
    if (!items.has(place)) items.set(place, await fetched(place.dataset.chart));
    views.set(place, await Bokeh.embed.embed_item(JSON.parse(items.get(place)), place));
  } catch (error) {
    console.error(error);
    place.hidden = true;
    openTable(place);
  }
}

function openTable(place) {
  place.parentElement.querySelector("details.data").open = true;
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.text();
}

// Colours come from the page's rules, which change with the reader's scheme; what is on a canvas must be drawn again.
async function drawAgain(place) {
  const hidden = new Set(linesOf(place).filter(isHidden).map(nameOf));
  for (const view of views.get(place) ?? []) {
    const at = Bokeh.documents.indexOf(view.model.document); // which would be kept for ever
    if (at >= 0) Bokeh.documents.splice(at, 1);
  }
  views.get(place)?.clear();
  place.style.minHeight = `${place.offsetHeight}px`; // so that the page does not jump
  place.replaceChildren();
  await draw(place);
  place.style.minHeight = "";
  for (const line of linesOf(place)) {
    if (hidden.has(nameOf(line))) for (const renderer of line.renderers) renderer.visible = false;
  }
}

// Draws what is there now in the place of what was.
async function drawAnew(place) {
  if (typeof Bokeh === "undefined") return;
  items.set(place, await fetched(place.dataset.chart));
  await drawAgain(place);
}

// The lines of a chart, or its groups of bars, as its legend has them.
function linesOf(place) {
  const plots = [...views.get(place) ?? []].map((view) => view.model);
  return plots.flatMap((plot) => plot.below ?? []).flatMap((part) => (part.type === "Legend" ? part.items : []));
}

const isHidden = (line) => line.renderers.every((renderer) => !renderer.visible);
const nameOf = (line) => line.get_labels_list_from_label_prop().join();

if (typeof Bokeh !== "undefined") Bokeh.set_log_level("warn");
for (const place of document.querySelectorAll(".chart")) draw(place);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const place of document.querySelectorAll(".chart")) drawAgain(place);
});
