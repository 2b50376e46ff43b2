// Draws the charts with Bokeh: what each shows stands within its place as JSON. Without this, the tables tell the same.
"use strict";

const views = new Map();

async function draw(place) {
  place.hidden = false;
  try {
    views.set(place, await Bokeh.embed.embed_item(JSON.parse(place.querySelector("script").textContent), place));
  } catch (error) {
    console.error(error);
    place.hidden = true;
    place.parentElement.querySelector("details.data").open = true;
  }
}

// Colours come from the page's rules, which change with the reader's scheme; what is on a canvas must be drawn again.
async function drawAgain(place) {
  views.get(place)?.clear();
  for (const child of [...place.children]) {
    if (child.tagName !== "SCRIPT") child.remove();
  }
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
