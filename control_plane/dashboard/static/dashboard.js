// What every page has: times in the reader's zone, copying, names that must be typed, and labels for narrow tables.
"use strict";

const inZone = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "short"});

function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    if (time.title) continue;
    time.title = time.textContent;
    time.textContent = inZone.format(new Date(time.dateTime));
  }
}

// On a phone a table's row is a block: each cell tells which column it is of.
function labelCells(root) {
  for (const table of root.querySelectorAll("table")) {
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    for (const row of table.tBodies[0]?.rows ?? []) {
      [...row.cells].forEach((cell, at) => {
        if (cell.tagName === "TD" && !cell.classList.contains("actions") && cell.colSpan === 1 && cell.textContent.trim()) {
          cell.dataset.label = heads[at] ?? "";
        }
      });
    }
  }
}

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch {
    // Without https there is no clipboard: the text is marked instead.
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = "Press Ctrl-C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function needName(button) {
  const field = button.form.elements.confirm;
  const look = () => { button.disabled = field.value !== button.dataset.needs; };
  field.addEventListener("input", look);
  look();
}

function followEnvironment(form) {
  const sandbox = form.querySelector("#deploy-sandbox");
  const push = form.querySelector("#deploy-push");
  const hint = form.querySelector("#deploy-push-hint");
  const look = () => {
    const chosen = form.querySelector("input[name=environment]:checked");
    const possible = chosen === null || chosen.dataset.push === "true";
    push.disabled = !possible;
    sandbox.disabled = !push.checked || push.disabled;
    if (!possible) hint.textContent = "This environment has no credential to push with; the application's page of environments takes one.";
    else if (sandbox.checked) hint.textContent = "A silent background update will be sent on Apple's sandbox APNS server.";
    else hint.textContent = "A silent background update wakes the devices, so that they fetch the version now.";
  };
  form.addEventListener("change", (event) => {
    if (event.target.name === "environment") sandbox.checked = event.target.dataset.sandbox === "true";
    look();
  });
  look();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
  for (const menu of document.querySelectorAll("details.menu[open], details.inline[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const open = event.target.closest?.("details.menu[open], details.inline[open]");
  if (open) {
    open.open = false;
    open.querySelector("summary").focus();
  }
});
for (const chooser of document.querySelectorAll("[data-submits]")) {
  chooser.addEventListener("change", () => chooser.form.submit());
}
for (const button of document.querySelectorAll("[data-needs]")) needName(button);
const deploy = document.querySelector("form#deploy");
if (deploy) followEnvironment(deploy);
showTimes(document);
labelCells(document);
const wrong = document.querySelector("[aria-invalid]");
if (wrong) {
  const folded = wrong.closest("details");
  if (folded) folded.open = true;
  wrong.focus();
}
