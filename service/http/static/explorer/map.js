// The map: sampled products on a canvas, with the user, liked products and matches as marks above it.

import { byId, element, labelOf, shownScore } from "./dom.js";
import { colourOf } from "./colours.js";
import { SIDES } from "./matches.js";
import { fetchJson } from "./service.js";

const MAX_MARKS = 100; // matches of a side that have a mark
const MAX_PLACED = 1000; // products that the service places at once
const REACH = 9; // pixels between the pointer and a product it points to
const TAIL = 0.02; // the share of products, at each end of each axis, by which alone nothing is scaled

const canvas = document.querySelector("#map canvas");
let sampled = []; // products as {id, name, x, y, fields?}
let places = new Map(); // of the matches shown, by product id
let view = null; // the part of the map that is shown, as {left, top, size}
let onPoint = () => {};

/** Show sampled products, null where the engine has no map; `onPoint(match, side)` is told what is pointed at. */
export function setUpMap(products, pointed) {
  [sampled, onPoint] = [products || [], pointed];
  byId("map-panel").hidden = !products;
  view = viewOf(sampled.map(({ x, y }) => [x, y]));
  showMarks([]);
}

export const hasMap = () => !byId("map-panel").hidden;

/** Take the sampled products with the field that they are coloured by; null leaves them as they are. */
export function recolour(products) {
  sampled = products || sampled;
  draw();
}

/** Ask for the places of a user, of liked products and of matches, and mark them where the answer is still wanted. */
export async function placeMarks(request, answer, likes, isWanted) {
  const matches = SIDES.flatMap((side) => answer[side].slice(0, MAX_PLACED).map((match) => ({ ...match, side })));
  const products = [...likes.map((product) => ({ ...product, side: "liked" })), ...matches];
  const user = request.path === "similar" ? { likes: request.body.ids } : { vector: request.body.vector };
  const found = [];
  let point;
  for (let start = 0; start === 0 || start < products.length; start += MAX_PLACED) {
    const ids = products.slice(start, start + MAX_PLACED).map(({ id }) => id);
    const placed = await fetchJson("map", JSON.stringify({ ids, ...(start ? {} : user) }));
    if (!isWanted()) return;
    found.push(...placed.products);
    point ||= placed.vector || placed.likes;
  }
  places = new Map(products.map(({ id }, i) => [id, found[i]]));
  const marked = products.map((product, i) => ({ ...product, point: found[i] }));
  const firsts = ["liked", ...SIDES].flatMap((side) => marked.filter((mark) => mark.side === side).slice(0, MAX_MARKS));
  showMarks([{ side: "user", name: request.name, id: "", point }, ...firsts]);
}

/** Show where a match lies, null for none. */
export function spot(match, side) {
  const point = match && places.get(match.id);
  byId("spot").hidden = !point;
  if (!point) return tip(null);
  const [left, top] = inView(point);
  byId("spot").className = side;
  byId("spot").style.left = `${100 * left}%`;
  byId("spot").style.top = `${100 * top}%`;
  tip(labelOf(match), left, top);
}

export function showMarks(marks) {
  draw();
  spot(null);
  byId("marks").replaceChildren(...marks.map(markOf));
  byId("legend-liked").hidden = !marks.some(({ side }) => side === "liked");
}

function markOf(mark, i) {
  const [left, top, isOutside] = inView(mark.point);
  const score = mark.score === undefined ? "" : ` ${shownScore(mark.score)}`;
  const label = mark.side === "user" ? mark.name : `${labelOf(mark)} · ${mark.side}${score}`;
  const button = element("button", { type: "button", className: mark.side, ariaLabel: label, tabIndex: i ? -1 : 0 }, element("i"));
  button.classList.toggle("outside", isOutside);
  button.style.left = `${100 * left}%`;
  button.style.top = `${100 * top}%`;
  for (const type of ["pointerenter", "focus"]) {
    button.addEventListener(type, () => {
      tip(isOutside ? `${label} (beyond the edge)` : label, left, top);
      onPoint(SIDES.includes(mark.side) ? mark : null, mark.side);
    });
  }
  for (const type of ["pointerleave", "blur"]) {
    button.addEventListener(type, () => {
      tip(null);
      onPoint(null, mark.side);
    });
  }
  return button;
}

function moveBetweenMarks(event) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const buttons = [...byId("marks").children];
  const from = buttons.indexOf(document.activeElement);
  if (!step || from < 0) return;
  event.preventDefault();
  const to = (from + step + buttons.length) % buttons.length;
  buttons[from].tabIndex = -1;
  buttons[to].tabIndex = 0;
  buttons[to].focus();
}

/** Return the square that holds all products but far outliers, by which alone a map would be a blob. */
function viewOf(points) {
  const range = (axis) => {
    if (!points.length) return [-1, 1];
    const sorted = points.map((point) => point[axis]).sort((a, b) => a - b);
    const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
    const [low, high] = [at(TAIL), at(1 - TAIL)];
    const margin = (high - low) / 2;
    return margin ? [Math.max(at(0), low - margin), Math.min(at(1), high + margin)] : [at(0), at(1)];
  };
  const [left, right] = range(0);
  const [bottom, top] = range(1);
  const size = 1.1 * Math.max(right - left, top - bottom, 1e-6);
  return { left: (left + right - size) / 2, top: (top + bottom + size) / 2, size };
}

/** Return a point's place in the view, from 0 to 1, and whether it is at the edge for lying beyond it. */
function inView([x, y]) {
  const place = [(x - view.left) / view.size, (view.top - y) / view.size];
  const inside = place.map((share) => Math.min(0.985, Math.max(0.015, share)));
  return [...inside, place.some((share) => share < 0 || share > 1)];
}

function draw() {
  if (!view) return;
  const scale = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.globalAlpha = sampled.length > 1500 ? 0.6 : 0.85;
  for (const product of sampled) {
    const [left, top] = inView([product.x, product.y]);
    const colour = colourOf(product);
    context.fillStyle = colour || getComputedStyle(document.documentElement).getPropertyValue("--other");
    context.beginPath();
    context.arc(left * width, top * height, colour ? 2.4 : 1.8, 0, 2 * Math.PI);
    context.fill();
  }
}

function pointAt(event) {
  if (!view || event.target.closest("#marks button")) return;
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - left, event.clientY - top];
  let nearest = null;
  let least = REACH;
  for (const product of sampled) {
    const place = inView([product.x, product.y]);
    const distance = Math.hypot(place[0] * width - x, place[1] * height - y);
    if (distance < least) [nearest, least] = [{ product, place }, distance];
  }
  if (nearest) tip(labelOf(nearest.product), ...nearest.place);
  else tip(null);
}

function tip(text, left, top) {
  const note = byId("tip");
  note.hidden = text === null;
  if (text === null) return;
  note.textContent = text;
  note.style.left = left < 0.5 ? `calc(${100 * left}% + 10px)` : "auto";
  note.style.right = left < 0.5 ? "auto" : `calc(${100 * (1 - left)}% + 10px)`;
  note.style.top = top < 0.5 ? `calc(${100 * top}% + 8px)` : "auto";
  note.style.bottom = top < 0.5 ? "auto" : `calc(${100 * (1 - top)}% + 8px)`;
}

byId("marks").addEventListener("keydown", moveBetweenMarks);
byId("map").addEventListener("pointermove", pointAt);
byId("map").addEventListener("pointerleave", () => tip(null));
new ResizeObserver(draw).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
