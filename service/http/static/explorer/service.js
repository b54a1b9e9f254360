// What the page asks the service. Paths are relative to the page, so that a proxy may serve both under a prefix.

import { byId } from "./dom.js";

const MAX_NAMED = 50; // products whose names are looked up at once

let model = null; // embedding model of the build, as the last answer named it

/** An answer that is none, or no answer at all; the message is one sentence. */
export class Problem extends Error {}

const urlOf = (path) => new URL(path, document.baseURI).href;

/** Return the parsed answer to a GET, or to a POST where there is a body. Throws Problem. */
export async function fetchJson(path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (byId("key").value) headers["X-API-Key"] = byId("key").value;
  if (model) headers["X-Embedding-Model"] = model;
  let response;
  try {
    response = await fetch(urlOf(path), { method: body === undefined ? "GET" : "POST", body, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service does not answer.");
  }
  model = response.headers.get("X-Embedding-Model");
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Problem(`${path} answered ${response.status} without JSON.`);
  }
  if (response.status === 401) byId("key-field").hidden = false;
  if (!response.ok) throw Object.assign(new Problem(sentenceOf(answer)), { status: response.status, answer });
  return answer;
}

/** Return the first fault of a problem, and how many more there are. */
function sentenceOf({ title, detail, errors = [] }) {
  const [first, ...others] = errors;
  // The last fault of a long vector stands for all elements beyond the first twenty.
  const further = others.reduce((count, { code, detail: text }) => count + (code === "vector_elements" ? Number(text.match(/\d+/)) : 1), 0);
  return `${title}: ${first ? first.detail : detail}${further ? ` (and ${further} more fault${further > 1 ? "s" : ""})` : ""}`;
}

/** Return null for an engine that looks nothing up, which is asked with vectors alone. */
export function without(problem) {
  if (problem.status === 501) return null;
  throw problem;
}

export function fieldPath(name, query) {
  return `fields/${encodeURIComponent(name)}?${new URLSearchParams(query)}`;
}

/** Return products, as `id` and `name`, of ids that came from an address or a pasted user. */
export function nameProducts(ids) {
  return Promise.all(
    ids.map(async (id, i) => {
      try {
        return i < MAX_NAMED ? await fetchJson(`products/${encodeURIComponent(id)}`) : { id, name: id };
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        return { id, name: id };
      }
    }),
  );
}

/** Return the shell command that sends a body. */
export function curlOf(path, body) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const key = byId("key").value ? ' -H "X-API-Key: $RECO_API_KEY"' : "";
  const named = model ? ` -H ${quoted(`X-Embedding-Model: ${model}`)}` : "";
  return `curl -s ${quoted(urlOf(path))}${key}${named} -d ${quoted(body)}`;
}
