// Draws the charts with Bokeh, each from JSON of its own when it comes into view. Without this, the tables tell the same.
"use strict";

const views = new Map();
const items = new Map();

// What nobody scrolls to is neither asked for nor drawn.
const coming = new IntersectionObserver((entries) => {
  for (const {target, isIntersecting} of entries) {
    if (!isIntersecting) continue;
    coming.unobserve(target);
    draw(target);
  }
}, {rootMargin: "200px"});

// Shows a chart; one that is shown already is drawn anew, of what there is now.
function show(place) {
  if (typeof Bokeh === "undefined") return openTable(place);
  place.hidden = false;
  coming.observe(place);
}

function openTable(place) {
  place.parentElement.querySelector("details.data").open = true;
}

let drawing = Promise.resolve(); // one by one
function draw(place) {
  drawing = drawing.then(async () => {
    try {
      items.set(place, await fetched(place.dataset.chart));
      await put(place);
    } catch (error) {
      if (views.has(place)) return console.info(error); // what is there stays
      console.error(error);
      place.hidden = true;
      openTable(place);
    }
  });
  return drawing;
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.text();
}

// What was drawn there is forgotten, but for the lines that its reader has hidden.
async function put(place) {
  const hidden = new Set(linesOf(place).filter(isHidden).map(nameOf));
  for (const view of views.get(place) ?? []) {
    const at = Bokeh.documents.indexOf(view.model.document);
    if (at >= 0) Bokeh.documents.splice(at, 1);
  }
  views.get(place)?.clear();
  place.style.minHeight = `${place.offsetHeight}px`; // so that the page does not jump
  place.replaceChildren();
  views.set(place, await Bokeh.embed.embed_item(JSON.parse(items.get(place)), place));
  place.style.minHeight = "";
  for (const line of linesOf(place)) {
    if (hidden.has(nameOf(line))) for (const renderer of line.renderers) renderer.visible = false;
  }
}

// The lines of a chart, or its groups of bars, as its legend has them.
function linesOf(place) {
  const plots = [...views.get(place) ?? []].map((view) => view.model);
  return plots.flatMap((plot) => plot.below ?? []).flatMap((part) => (part.type === "Legend" ? part.items : []));
}

const isHidden = (line) => line.renderers.every((renderer) => !renderer.visible);
const nameOf = (line) => line.get_labels_list_from_label_prop().join();

if (typeof Bokeh !== "undefined") Bokeh.set_log_level("warn");
for (const place of document.querySelectorAll(".chart")) show(place);
// Colours come from the page's rules, which change with the reader's scheme; what is on a canvas must be drawn again.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const place of views.keys()) if (place.isConnected) drawing = drawing.then(() => put(place));
});
