
"use strict";
// What every part of the page needs: building nodes, saying things aloud, tables, copying, the theme.
document.documentElement.classList.add("scripted");

/** An element; `attributes` are set as given, children that are texts become text nodes. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  return filled(made, attributes, children);
}

/** The same for drawings. */
function drawing(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  return filled(made, attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function say(text) {
  document.getElementById("said").textContent = text;
}

/** Copies a text; pages from disk may have no clipboard interface, so a selection is the second way. */
async function copyText(text) {
  if (navigator.clipboard) {
    const done = await navigator.clipboard.writeText(text).then(() => true, () => false);
    if (done) return true;
  }
  const area = element("textarea", { class: "said", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

async function copyFrom(button, text) {
  const before = button.textContent;
  const done = await copyText(text);
  button.textContent = done ? "Copied" : "Not copied";
  say(done ? "Copied" : "The browser did not allow copying");
  setTimeout(() => { button.textContent = before; }, 1500);
}

/** A button in each head cell; numbers begin with the largest, texts with the first letter. */
function makeSortable(table) {
  table.querySelectorAll("thead th[data-sort]").forEach((head) => {
    const label = head.querySelector(".sort-label");
    const button = element("button", { type: "button", class: "sort" });
    button.append(...label.childNodes);
    label.replaceWith(button);
    button.addEventListener("click", () => sortBy(table, head));
  });
}

function sortBy(table, head) {
  const place = head.cellIndex;
  const numbers = head.dataset.sort === "number";
  const before = head.getAttribute("aria-sort");
  const down = before === "none" ? numbers : before === "ascending";
  head.parentNode.querySelectorAll("th[aria-sort]").forEach((other) => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = Array.from(table.tBodies[0].rows).map((row) => [row, row.cells[place].dataset.value || ""]);
  rows.sort(([, a], [, b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = numbers ? a - b : a.localeCompare(b, undefined, { numeric: true });
    return down ? -order : order;
  });
  table.tBodies[0].append(...rows.map(([row]) => row));
}

function startTheme() {
  const button = document.getElementById("theme");
  const names = { "": "as the system", light: "light", dark: "dark" };
  const order = Object.keys(names);
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const next = order[(order.indexOf(root.dataset.theme || "") + 1) % order.length];
    if (next) root.dataset.theme = next;
    else delete root.dataset.theme;
    button.querySelector("span").textContent = names[next];
  });
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("button.copy").forEach((button) => {
  button.addEventListener("click", () => copyFrom(button, button.closest(".command").querySelector(".whole").textContent));
});
startTheme();

/** Paper has no summary to click on: commands are printed whole. */
function openCommands() {
  const closed = [...document.querySelectorAll(".command details:not([open])")];
  closed.forEach((details) => { details.open = true; });
  addEventListener("afterprint", () => closed.forEach((details) => { details.open = false; }), { once: true });
}

addEventListener("beforeprint", openCommands);
