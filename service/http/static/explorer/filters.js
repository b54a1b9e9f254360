// The filter of a request, field by field: values with their counts, ranges of numbers, and the fields shown with a match.

import { byId, element, showChips, shownNumber } from "./dom.js";
import { setUpCombobox } from "./combobox.js";
import { fetchJson, fieldPath } from "./service.js";

const MAX_CHECKBOXES = 8; // A field of more values gets a text field that completes.

let facts = new Map(); // of each field to filter by, as `/index` has them
let conditions = new Map(); // by field, those that a row can show
let others = {}; // members of the filter that no row can show
let fields = []; // names of the fields shown with a match
let notify = () => {};
let report = () => {};

/** Show what there is to filter by. `onChange` is told of each change, `onProblem` of what the service refuses. */
export function setUpFilters(filterable, onChange, onProblem) {
  [notify, report] = [onChange, onProblem];
  facts = new Map(filterable.map((field) => [field.name, field]));
  byId("filter-field").hidden = !facts.size;
  const shown = [["*", "all of them"], ...filterable.map(({ name }) => [name, name])];
  byId("fields").replaceChildren(...shown.map(([name, label]) => checkbox(label, fields.includes(name), (on) => showField(name, on))));
  showRows();
}

export const currentFields = () => fields;

/** Return the filter, as requests have it. */
export function currentFilter() {
  const members = [...conditions].filter(([, condition]) => condition !== null);
  return { ...others, ...Object.fromEntries(members) };
}

/** Take over the filter and the shown fields of an address or a pasted user. */
export function setFilters(filter, names) {
  conditions = new Map();
  others = {};
  for (const [name, condition] of Object.entries(filter)) {
    const element = facts.get(name) && elementOf(facts.get(name));
    if (element && (element === "number" ? rangeOf(condition) : valuesOf(condition))) conditions.set(name, condition);
    else others[name] = condition;
  }
  fields = names;
  const boxes = byId("fields").querySelectorAll("input");
  ["*", ...facts.keys()].forEach((name, i) => (boxes[i].checked = fields.includes(name)));
  showRows();
}

const elementOf = (field) => field.type.replace("list of ", "");

/** Return the values that a condition lets through, or null where it says more. */
function valuesOf(condition) {
  if (condition === null) return [];
  if (typeof condition !== "object") return [condition];
  const names = Object.keys(condition).join();
  if (names === "$eq") return [condition.$eq];
  return names === "$in" && Array.isArray(condition.$in) ? condition.$in : null;
}

/** Return the two ends that a condition allows, undefined for an open one, or null where it says more. */
function rangeOf(condition) {
  if (condition === null) return [undefined, undefined];
  if (typeof condition === "number") return [condition, condition];
  const known = Object.keys(condition).every((name) => name === "$gte" || name === "$lte");
  return known ? [condition.$gte, condition.$lte] : null;
}

function showField(name, on) {
  fields = on ? [...fields, name] : fields.filter((each) => each !== name);
  notify();
}

function setCondition(name, condition) {
  conditions.set(name, condition);
  notify();
}

function setValues(name, values) {
  setCondition(name, values.length > 1 ? { $in: values } : values.length ? values[0] : null);
}

function showRows() {
  byId("conditions").replaceChildren(...[...conditions.keys()].map(row));
  showOthers();
}

/** Show what is in no row: conditions that none can show, and the fields that may get one. */
function showOthers() {
  const unused = [...facts.values()].filter((field) => !conditions.has(field.name) && !(field.name in others));
  const options = unused.map((field) => element("option", { value: field.name }, `${field.name} (${field.values.toLocaleString("en")})`));
  byId("add-condition").replaceChildren(element("option", { value: "" }, "Add a field …"), ...options);
  byId("add-condition").hidden = !unused.length;
  const names = Object.keys(others);
  const remove = (i) => {
    delete others[names[i]];
    showOthers();
    notify();
  };
  showChips(byId("other-conditions"), names.map((name) => JSON.stringify({ [name]: others[name] })), "Remove", remove, byId("add-condition"));
}

/** Add a row for the chosen field, and go there. */
export function addCondition() {
  const name = byId("add-condition").value;
  if (!name) return;
  conditions.set(name, null);
  byId("conditions").append(row(name));
  showOthers();
  byId("conditions").lastElementChild.querySelector("input, button").focus();
}

function row(name) {
  const made = element("fieldset", { className: "condition" });
  const remove = element("button", { type: "button", ariaLabel: `Remove the filter by ${name}`, title: "Remove" }, "×");
  remove.addEventListener("click", () => {
    conditions.delete(name);
    made.remove();
    showOthers();
    notify();
    byId("add-condition").focus();
  });
  const field = facts.get(name);
  const legend = element("legend", {}, element("span", {}, name), remove);
  made.dataset.field = name;
  const editor = elementOf(field) === "number" ? range : field.values <= MAX_CHECKBOXES ? choices : search;
  made.append(legend, editor(field, conditions.get(name)));
  return made;
}

/** Two numbers, whose placeholders are the least and the greatest that the catalogue has. */
function range(field, condition) {
  const ends = rangeOf(condition);
  const inputs = ["from", "to"].map((word, i) =>
    element("input", { type: "number", step: "any", ariaLabel: `${field.name} ${word}`, value: ends[i] ?? "", placeholder: word }),
  );
  const change = () => {
    const [low, high] = inputs.map((input) => (input.value === "" ? undefined : Number(input.value)));
    const isOpen = low === undefined && high === undefined;
    setCondition(field.name, isOpen ? null : JSON.parse(JSON.stringify({ $gte: low, $lte: high })));
  };
  inputs.forEach((input) => input.addEventListener("change", change));
  fetchJson(fieldPath(field.name, { limit: 1 })).then(({ min, max }) => {
    if (min !== null) [inputs[0].placeholder, inputs[1].placeholder] = [shownNumber(min), shownNumber(max)];
  }, report);
  return element("div", { className: "range" }, inputs[0], "–", inputs[1]);
}

/** A checkbox for each of a few values. */
function choices(field, condition) {
  const made = element("div", { className: "choices" });
  const chosen = new Set(valuesOf(condition));
  const show = ({ values }) => {
    const boxes = values.map(({ value, products }) =>
      checkbox([String(value), element("small", {}, products.toLocaleString("en"))], chosen.has(value), (on) => {
        if (on) chosen.add(value);
        else chosen.delete(value);
        setValues(field.name, [...chosen]);
      }),
    );
    made.replaceChildren(...boxes);
  };
  fetchJson(fieldPath(field.name, { limit: MAX_CHECKBOXES })).then(show, report);
  return made;
}

/** Chips of the chosen values, and a field that completes further ones. */
function search(field, condition) {
  const chosen = valuesOf(condition);
  const list = element("ul", { className: "chips", ariaLabel: `Chosen ${field.name}` });
  const input = element("input", { type: "text", ariaLabel: `Value of ${field.name}`, placeholder: "any", spellcheck: false });
  const completions = element("ul", { role: "listbox", ariaLabel: `Values of ${field.name}`, className: "completions", hidden: true });
  const change = () => {
    showChips(list, chosen.map(String), "Remove", (i) => {
      chosen.splice(i, 1);
      change();
      setValues(field.name, [...chosen]);
    }, input);
  };
  change();
  setUpCombobox(input, completions, {
    pathOf: (text) => fieldPath(field.name, { contains: text, limit: 20 }),
    read: ({ values }) => values.filter(({ value }) => !chosen.includes(value)),
    show: ({ value, products }) => `${value} · ${products.toLocaleString("en")}`,
    choose: ({ value }) => {
      chosen.push(value);
      change();
      setValues(field.name, [...chosen]);
    },
    none: "No further value contains this.",
    opensEmpty: true,
    onProblem: report,
  });
  return element("div", {}, list, element("div", { className: "completed" }, input, completions));
}

function checkbox(label, checked, change) {
  const input = element("input", { type: "checkbox", checked });
  input.addEventListener("change", () => change(input.checked));
  return element("label", {}, input, element("span", {}, ...[].concat(label)));
}
