// The two sides of an answer: a row for each match, and the products left out.

import { byId, element, labelOf, showChips, shownScore } from "./dom.js";

export const SIDES = ["best", "worst"];

/**
 * Show an answer, or in place of matches the `hint`. `onExclude(match)` is told which match is to be left out,
 * `onPoint(match, side)` which one is pointed at, null for none.
 */
export function showMatches(answer, hint, onExclude, onPoint) {
  const matches = SIDES.flatMap((side) => (answer ? answer[side] : []));
  const low = matches.reduce((least, { score }) => Math.min(least, score), 0);
  for (const side of SIDES) {
    const rows = (answer ? answer[side] : []).map((match) => row(match, side, low, onExclude, onPoint));
    byId(side).replaceChildren(...(rows.length ? rows : [element("li", { className: "empty" }, answer ? "No products left." : hint)]));
    byId(side).scrollTop = 0;
  }
  byId("status").textContent = answer ? `${answer.best.length} best and ${answer.worst.length} worst matches` : "";
}

/** Mark the row of a match, null for none, and bring it into the visible part of its list. */
export function markRow(match, side) {
  for (const shown of document.querySelectorAll(".bars .shown")) shown.classList.remove("shown");
  if (!match) return;
  const list = byId(side);
  const found = [...list.children].find((each) => each.dataset.id === match.id);
  if (!found) return;
  found.classList.add("shown");
  const [outer, inner] = [list.getBoundingClientRect(), found.getBoundingClientRect()];
  if (inner.top < outer.top || inner.bottom > outer.bottom) list.scrollTop += inner.top - outer.top;
}

/** Show which products are left out. `takeBack(i)` is told which of them is not any more. */
export function showExcluded(products, takeBack) {
  byId("excluded-field").hidden = !products.length;
  showChips(byId("excluded"), products.map(labelOf), "Take back", takeBack, document.querySelector("#ask [type=submit]"));
}

/** Return a function that gives the focus to the row that has taken the place of a match's row. */
export function focusAfter(match, side) {
  const rows = [...byId(side).children];
  const place = rows.findIndex((each) => each.dataset.id === match.id);
  return () => {
    const buttons = byId(side).querySelectorAll("button");
    if (buttons.length) buttons[Math.min(place, buttons.length - 1)].focus({ preventScroll: true });
  };
}

function row(match, side, low, onExclude, onPoint) {
  const name = element("span", { className: "name" }, labelOf(match));
  name.title = match.name === match.id ? match.name : `${match.name} (${match.id})`;
  const score = element("span", { className: "score", title: String(match.score) }, shownScore(match.score));
  const button = element("button", { type: "button", title: "Exclude", ariaLabel: `Exclude ${labelOf(match)}` }, "×");
  button.addEventListener("click", () => onExclude(match, side));
  const made = element("li", {}, name, button, bar(match.score, low), score);
  if (match.fields) made.append(fieldsOf(match.fields));
  made.dataset.id = match.id;
  for (const type of ["pointerenter", "focusin"]) made.addEventListener(type, () => onPoint(match, side));
  for (const type of ["pointerleave", "focusout"]) made.addEventListener(type, () => onPoint(null, side));
  return made;
}

function bar(score, low) {
  const place = (value) => (100 * (value - low)) / (1 - low);
  const filled = element("span", { className: "bar" });
  filled.style.left = `${place(Math.min(0, score))}%`;
  filled.style.width = `${place(Math.max(0, score)) - place(Math.min(0, score))}%`;
  const track = element("span", { className: "track", ariaHidden: "true" }, filled);
  if (low < 0) {
    const zero = element("span", { className: "zero" });
    zero.style.left = `${place(0)}%`;
    track.append(zero);
  }
  return track;
}

function fieldsOf(fields) {
  const shown = (value) => (Array.isArray(value) ? value.map(shown).join(", ") : typeof value === "string" ? value : JSON.stringify(value));
  const written = Object.entries(fields).filter(([, value]) => !Array.isArray(value) || value.length);
  const parts = written.map(([name, value]) => element("span", {}, element("i", {}, name), " ", shown(value)));
  return element("p", { className: "fields" }, ...parts);
}
