// The colours of the map by a field: one for each of its most frequent values, or a scale for numbers.

import { byId, element, shownNumber } from "./dom.js";
import { fetchJson, fieldPath } from "./service.js";

// Eight hues that colour-blind people tell apart too (Okabe and Ito), the black one replaced.
const HUES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a6fd1", "#b8a800"];
const [COLD, WARM] = [240, 20]; // hues of the lowest and the highest number, in degrees
const TAIL = 0.02; // the share of the numbers, at each end, for which alone no scale is made

let colour = () => null; // of the values of a product's field

/** Offer the fields to filter by, and have `onChange` told of a choice. */
export function setUpColours(filterable, onChange) {
  const options = filterable.map(({ name }) => element("option", {}, name));
  byId("colour").replaceChildren(element("option", { value: "" }, "nothing"), ...options);
  byId("colour-field").hidden = !filterable.length;
  byId("colour").onchange = onChange;
}

/** Read what the colours of a field stand for, and return the sampled products with it, null without a field. */
export async function colourBy(name) {
  byId("colours").replaceChildren();
  colour = () => null;
  if (!name) return null;
  const [field, map] = await Promise.all([
    fetchJson(fieldPath(name, { limit: HUES.length })),
    fetchJson(`map?${new URLSearchParams({ field: name })}`),
  ]);
  const valuesOf = (fields) => (fields && name in fields ? [].concat(fields[name]) : []);
  const paint = field.min === null ? byValue(field) : byNumber(map.products.flatMap(({ fields }) => valuesOf(fields)));
  colour = (fields) => valuesOf(fields).map(paint).find((each) => each) || null;
  return map.products;
}

/** Return the colour of a product, null where it has none of the coloured values. */
export const colourOf = (product) => colour(product.fields);

function byValue({ values, found }) {
  const hues = new Map(values.map(({ value }, i) => [value, HUES[i]]));
  const entries = values.map(({ value, products }) => swatch(hues.get(value), `${value} (${products.toLocaleString("en")})`));
  const rest = found > values.length ? [element("li", {}, `and ${(found - values.length).toLocaleString("en")} more values`)] : [];
  byId("colours").replaceChildren(...entries, ...rest);
  return (value) => hues.get(value);
}

/** A scale between the numbers that nearly all lie between; those beyond have the colours of the ends. */
function byNumber(numbers) {
  const sorted = numbers.filter((each) => typeof each === "number").sort((a, b) => a - b);
  const [low, high] = [TAIL, 1 - TAIL].map((share) => sorted[Math.round(share * (sorted.length - 1))]);
  const shareOf = (number) => Math.min(1, Math.max(0, (number - low) / (high - low || 1)));
  const paint = (number) => `hsl(${COLD + (WARM - COLD) * shareOf(number)} 70% 50%)`;
  const shown = high > low ? [low, (low + high) / 2, high] : sorted.slice(0, 1);
  byId("colours").replaceChildren(...shown.map((number) => swatch(paint(number), shownNumber(number))));
  return (value) => (typeof value === "number" ? paint(value) : null);
}

function swatch(hue, label) {
  const mark = element("i");
  mark.style.background = hue;
  return element("li", {}, mark, label);
}
