// Draws the charts with Bokeh, each from JSON of its own. Without this, the tables tell the same.
"use strict";

const views = new Map();
const items = new Map();

async function draw(place) {
  place.hidden = false;
  try {
    if (!items.has(place)) items.set(place, await fetched(place.dataset.chart));
    views.set(place, await Bokeh.embed.embed_item(JSON.parse(items.get(place)), place));
  } catch (error) {
    console.error(error);
    place.hidden = true;
    place.parentElement.querySelector("details.data").open = true;
  }
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.text();
}

// Colours come from the page's rules, which change with the reader's scheme; what is on a canvas must be drawn again.
async function drawAgain(place) {
  views.get(place)?.clear();
  place.replaceChildren();
  await draw(place);
}

const places = document.querySelectorAll(".chart");
if (typeof Bokeh === "undefined") {
  for (const data of document.querySelectorAll("details.data")) data.open = true;
} else {
  Bokeh.set_log_level("warn");
  for (const place of places) draw(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const place of places) drawAgain(place);
  });
}
