// The address holds what the page asks, behind the #, so that it can be shared and no server logs it.

const LISTS = { like: "likes", exclude: "excluded", field: "fields" };
const MAX_CHARACTERS = 100_000; // A longer vector is not worth an address that others refuse.

/** Return what the address asks: ids of products, texts, and a filter, each where it has one. */
export function readAddress() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const asked = Object.fromEntries(["mode", "user", "vector", "k", "colour"].map((name) => [name, parameters.get(name)]));
  for (const [name, list] of Object.entries(LISTS)) asked[list] = parameters.getAll(name);
  try {
    asked.filter = JSON.parse(parameters.get("filter") || "{}");
  } catch {
    asked.filter = {}; // An address may come cut from anywhere.
  }
  return asked;
}

/** Put what the page asks into the address, without a step in the browser's history. */
export function writeAddress(asked) {
  const parameters = new URLSearchParams();
  for (const name of ["mode", "user", "vector", "k", "colour"]) {
    if (asked[name] && asked[name].length <= MAX_CHARACTERS) parameters.set(name, asked[name]);
  }
  for (const [name, list] of Object.entries(LISTS)) asked[list].forEach((value) => parameters.append(name, value));
  if (Object.keys(asked.filter).length) parameters.set("filter", JSON.stringify(asked.filter));
  history.replaceState(null, "", `#${parameters}`);
}
