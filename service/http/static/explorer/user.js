// Who is asked for: a sample user, somebody who likes some products, or a pasted vector.

import { byId, element, labelOf, showChips } from "./dom.js";
import { setUpCombobox } from "./combobox.js";
import { Problem } from "./service.js";

let mode = "sample";
let samples = [];
let likes = []; // products as {id, name}
let notify = () => {};

export const currentMode = () => mode;
export const currentLikes = () => likes;
export const currentSample = () => samples[byId("sample").selectedIndex];

/** Show the modes that the engine can answer. `onChange` is told of each change of the user. */
export function setUpUser(found, onChange, onProblem) {
  notify = onChange;
  samples = found ? found.users : [];
  byId("sample").replaceChildren(...samples.map((user) => element("option", {}, user.name)));
  const radio = (name) => document.querySelector(`#modes [value=${name}]`);
  radio("sample").disabled = !samples.length;
  radio("likes").disabled = !found;
  byId("modes").onchange = (event) => {
    setMode(event.target.value);
    notify();
  };
  byId("sample").onchange = () => {
    showSampleLikes();
    notify();
  };
  if (!found || byId("like").getAttribute("role")) return; // An earlier start has set it up.
  setUpCombobox(byId("like"), byId("completions"), {
    pathOf: (text) => `products?${new URLSearchParams({ contains: text, limit: "10" })}`,
    read: ({ products }) => products,
    show: labelOf,
    choose: (product) => setLikes(likes.some((liked) => liked.id === product.id) ? likes : [...likes, product]),
    none: "No product's name contains this.",
    onProblem,
  });
  byId("like").addEventListener("keydown", (event) => {
    if (event.key === "Backspace" && !byId("like").value && likes.length) setLikes(likes.slice(0, -1));
  });
}

/** Choose a user: the mode that is asked for, or the first that the engine can answer. */
export function chooseUser({ mode: asked, user, likes: liked, vector }) {
  byId("sample").selectedIndex = Math.max(0, samples.findIndex(({ name }) => name === user));
  likes = liked;
  byId("vector").value = vector || "";
  const can = [...document.querySelectorAll("#modes input:enabled")].map((radio) => radio.value);
  setMode(can.includes(asked) ? asked : can[0]);
  showSampleLikes();
  showLikes();
}

/** Return path, body and name of a request for the user, without options; null where there is no user yet. */
export function currentUser() {
  if (mode === "sample") {
    const user = currentSample();
    return user ? { path: "infer", body: { name: user.name, vector: user.vector }, name: user.name } : null;
  }
  if (mode === "likes") return likes.length ? { path: "similar", body: { ids: likes.map(({ id }) => id) }, name: "user" } : null;
  const text = byId("vector").value.trim();
  if (!text) return null;
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Problem(`The vector is not JSON: ${error.message}`);
  }
  const isUser = value !== null && typeof value === "object" && !Array.isArray(value);
  const name = isUser && typeof value.name === "string" ? value.name : "user";
  return { path: "infer", body: isUser ? { ...value, name } : { name, vector: value }, name };
}

function setMode(asked) {
  mode = asked;
  for (const panel of document.querySelectorAll("[data-mode]")) panel.hidden = panel.dataset.mode !== mode;
  for (const radio of document.querySelectorAll("#modes input")) radio.checked = radio.value === mode;
}

function showSampleLikes() {
  const user = currentSample();
  byId("sample-likes").textContent = user && user.likes.length ? `Likes ${user.likes.join(", ")}.` : "";
}

function setLikes(products) {
  likes = products;
  showLikes();
  notify();
}

function showLikes() {
  showChips(byId("likes"), likes.map(labelOf), "Remove", (i) => setLikes(likes.filter((_, j) => j !== i)), byId("like"));
}
