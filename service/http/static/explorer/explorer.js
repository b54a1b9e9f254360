// The explorer page: what it asks, when it asks, and what it shows of the answer.

import { readAddress, writeAddress } from "./address.js";
import { colourBy, setUpColours } from "./colours.js";
import { byId, pretty } from "./dom.js";
import { addCondition, currentFields, currentFilter, setFilters, setUpFilters } from "./filters.js";
import { hasMap, placeMarks, recolour, setUpMap, showMarks, spot } from "./map.js";
import { focusAfter, markRow, showExcluded, showMatches } from "./matches.js";
import { Problem, curlOf, fetchJson, nameProducts, without } from "./service.js";
import { chooseUser, currentLikes, currentMode, currentSample, currentUser, setUpUser } from "./user.js";

const HINTS = { sample: "—", likes: "Add a product that this user likes.", vector: "Paste a vector and run." };
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const areTexts = (value) => Array.isArray(value) && value.every((each) => typeof each === "string");
const areIds = (value) => Array.isArray(value) && value.every((each) => typeof each === "string" || Number.isInteger(each));
// The options of a pasted user that the page has fields for, where they are of a form that these can show.
const SHOWN_OPTIONS = { k: Number.isInteger, exclude: areIds, filter: isObject, fields: areTexts };

let excluded = []; // products as {id, name}
let adopted = ""; // the pasted text whose options the page has taken over
let runs = 0; // answers to all but the latest run are dropped
let isStarted = false;

/** Return the request for the current user with the options of the page, null where there is no user yet. */
function currentRequest() {
  const user = currentUser();
  if (!user) return null;
  const [own, shown] = [{}, {}];
  for (const [name, value] of Object.entries(user.body)) (SHOWN_OPTIONS[name]?.(value) ? shown : own)[name] = value;
  if (currentMode() === "vector" && byId("vector").value !== adopted) adopt(shown);
  const [k, filter, fields] = [byId("k").value.trim(), currentFilter(), currentFields()];
  const { vector, ...body } = own;
  if (k !== "") body.k = Number(k);
  if (excluded.length) body.exclude = excluded.map(({ id }) => id);
  if (Object.keys(filter).length) body.filter = filter;
  if (fields.length) body.fields = fields;
  if (vector !== undefined) body.vector = vector; // It comes last, as it is long.
  return { ...user, body };
}

/** Put the options of a pasted user into the page's fields, once. */
function adopt({ k, exclude, filter, fields }) {
  adopted = byId("vector").value;
  if (k !== undefined) byId("k").value = k;
  if (exclude) setExcluded(exclude.map(String));
  if (filter || fields) setFilters(filter || currentFilter(), fields || currentFields());
}

async function run() {
  const number = ++runs;
  const isWanted = () => number === runs;
  let request = null;
  try {
    request = currentRequest();
    rememberAddress();
    showRequest(request);
    if (!request) return show(null);
    byId("results").setAttribute("aria-busy", "true");
    const answer = await fetchJson(request.path, JSON.stringify(request.body));
    if (!isWanted()) return;
    show(answer);
    const likes = currentMode() === "likes" ? currentLikes() : [];
    if (hasMap()) await placeMarks(request, answer, likes, isWanted);
  } catch (error) {
    if (isWanted()) showFailure(request, error);
  } finally {
    if (isWanted()) byId("results").removeAttribute("aria-busy");
  }
}

function showFailure(request, error) {
  if (!(error instanceof Problem)) throw error;
  show(null, error);
  if (!request) showRequest(null);
}

function show(answer, problem) {
  showProblem(problem);
  byId("answer").textContent = pretty(answer || problem?.answer || null);
  byId("matched").textContent = answer?.matched === undefined ? "" : `${answer.matched.toLocaleString("en")} products match the filter.`;
  showMatches(answer, problem ? "—" : HINTS[currentMode()], exclude, spot);
  if (!answer && hasMap()) showMarks([]);
}

function showProblem(problem) {
  byId("problem").textContent = problem ? problem.message : "";
  byId("problem").hidden = !problem;
}

function showRequest(request) {
  byId("request").textContent = request ? `POST /${request.path}\n\n${pretty(request.body)}` : "";
  byId("curl").textContent = request ? curlOf(request.path, JSON.stringify(request.body)) : "";
  byId("copy").disabled = !request;
}

// ---- products left out

async function exclude({ id, name }, side) {
  const focus = focusAfter({ id }, side);
  excluded.push({ id, name });
  listExcluded();
  await run();
  focus();
}

/** Leave out the products with these ids, and then show their names. */
async function setExcluded(ids) {
  excluded = ids.map((id) => ({ id, name: id }));
  listExcluded();
  const names = new Map((await nameProducts(ids)).map(({ id, name }) => [id, name]));
  excluded.forEach((product) => (product.name = names.get(product.id) ?? product.name));
  listExcluded();
}

function listExcluded() {
  showExcluded(excluded, (i) => {
    excluded.splice(i, 1);
    listExcluded();
    run();
  });
}

// ---- the address

function rememberAddress() {
  const mode = currentMode();
  writeAddress({
    mode,
    user: mode === "sample" ? currentSample()?.name : "",
    likes: mode === "likes" ? currentLikes().map(({ id }) => id) : [],
    vector: mode === "vector" ? byId("vector").value.trim() : "",
    k: byId("k").value,
    excluded: excluded.map(({ id }) => id),
    filter: currentFilter(),
    fields: currentFields(),
    colour: byId("colour").value,
  });
}

async function restoreAddress() {
  const asked = readAddress();
  if (asked.k !== null) byId("k").value = asked.k;
  chooseUser({ ...asked, likes: await nameProducts(asked.likes) });
  adopted = byId("vector").value;
  setExcluded(asked.excluded);
  setFilters(isObject(asked.filter) ? asked.filter : {}, asked.fields);
  byId("colour").value = asked.colour || "";
  if (byId("colour").value) await colour();
  await run();
}

async function colour() {
  try {
    recolour(await colourBy(byId("colour").value));
    rememberAddress();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(error);
  }
}

// ---- start

async function start() {
  try {
    const [index, samples, map] = await Promise.all([fetchJson("index"), fetchJson("samples").catch(without), fetchJson("map").catch(without)]);
    isStarted = true;
    byId("key-field").hidden = !byId("key").value;
    byId("report").hidden = Boolean(byId("key").value); // A browser that follows a link sends no key.
    byId("index-facts").textContent = `${index.products.toLocaleString("en")} products, ${index.dimension} dimensions`;
    setUpUser(samples, run, showProblem);
    setUpFilters(samples ? index.filterable : [], run, showProblem);
    setUpMap(map && map.products, markRow);
    setUpColours(map ? index.filterable : [], colour);
    await restoreAddress();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(error);
  }
}

async function copy() {
  try {
    await navigator.clipboard.writeText(byId("curl").textContent);
  } catch {
    // Without https, or without the user's leave, a browser lends no clipboard.
    getSelection().selectAllChildren(byId("curl"));
    if (!document.execCommand("copy")) return;
  }
  byId("copy").textContent = "Copied";
  setTimeout(() => (byId("copy").textContent = "Copy"), 1500);
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (isStarted) run();
  else start();
});
byId("k").addEventListener("change", run);
byId("copy").addEventListener("click", copy);
byId("add-condition").addEventListener("change", addCondition);
addEventListener("hashchange", () => isStarted && restoreAddress());
start();
