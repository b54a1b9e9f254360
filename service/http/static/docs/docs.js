"use strict";
// Shows openapi.json. All that comes from it is put into the page as text, never as markup.

const byId = (id) => document.getElementById(id);

/** An element with properties and children; strings become text. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A text's parts, with what stands in backticks as code. */
const prose = (text) => text.split("`").map((part, position) => (position % 2 ? make("code", {}, part) : part));

/** What a $ref points at. */
function resolve(api, node) {
  if (!node || !node.$ref) return node;
  return node.$ref.slice(2).split("/").reduce((at, name) => at[name.replaceAll("~1", "/").replaceAll("~0", "~")], api);
}

/** JSON for reading: indented, lists of plain values on one line. */
function pretty(value, indent = "") {
  const deeper = indent + "  ";
  const isPlain = (member) => member === null || typeof member !== "object";
  if (isPlain(value)) return JSON.stringify(value);
  if (Array.isArray(value)) {
    if (value.every(isPlain)) return `[${value.map((member) => JSON.stringify(member)).join(", ")}]`;
    return `[\n${value.map((member) => deeper + pretty(member, deeper)).join(",\n")}\n${indent}]`;
  }
  const members = Object.entries(value).map(([name, member]) => `${deeper}${JSON.stringify(name)}: ${pretty(member, deeper)}`);
  return members.length ? `{\n${members.join(",\n")}\n${indent}}` : "{}";
}

const exampleText = (example) => (typeof example === "string" ? example : pretty(example));

/** A value that a schema allows: its example or default, or else the plainest of its type with what is required. */
function exampleOf(api, schema) {
  const at = resolve(api, schema) || {};
  for (const value of [at.example, at.examples?.[0], at.const, at.default, at.enum?.[0]]) if (value !== undefined) return value;
  if (at.anyOf || at.oneOf) return exampleOf(api, (at.anyOf || at.oneOf)[0]);
  const [type] = [].concat(at.type || "object");
  if (type === "object") return Object.fromEntries((at.required || []).map((name) => [name, exampleOf(api, at.properties?.[name])]));
  if (type === "array") return Array.from({ length: at.minItems ?? 1 }, () => exampleOf(api, at.items));
  if (type === "number" || type === "integer") return Math.max(at.minimum ?? 1, 1);
  return { boolean: false, string: "text" }[type] ?? null;
}

/** What is put into the form for one kind of body. */
function bodyOf(api, { example, schema }) {
  return exampleText(example === undefined ? exampleOf(api, schema) : example);
}

/** The parameters of an operation that are part of its address. */
function parametersOf(api, operation) {
  return (operation.parameters || []).map((each) => resolve(api, each)).filter((each) => each.in === "path" || each.in === "query");
}

/** A schema's type in a few words. */
function typeOf(api, schema) {
  if (!schema) return "any";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map((one) => typeOf(api, one)).join(" or ");
  const type = [].concat(schema.type || "any").join(" or ");
  return schema.type === "array" ? `array of ${typeOf(api, schema.items)}` : type;
}

function limitsOf(schema) {
  const parts = [];
  if (schema.minItems !== undefined && schema.minItems === schema.maxItems) parts.push(`exactly ${schema.minItems}`);
  else if (schema.maxItems !== undefined) parts.push(`at most ${schema.maxItems}`);
  if (schema.minimum !== undefined && schema.maximum !== undefined) parts.push(`${schema.minimum} to ${schema.maximum}`);
  if (schema.enum) parts.push(`one of ${schema.enum.join(", ")}`);
  if (schema.default !== undefined) parts.push(`default ${JSON.stringify(schema.default)}`);
  return parts.join("; ");
}

function table(headings, rows) {
  const head = make("tr", {}, ...headings.map((text) => make("th", { scope: "col" }, text)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, ...[].concat(cell)))));
  return make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

/** The fields of a schema, and of those it refers to, each once. */
function fieldsOf(api, schema, shown = new Set()) {
  const found = [];
  const inner = (one) => {
    if (!one) return;
    if (one.anyOf) return one.anyOf.forEach(inner);
    if (one.type === "array") return inner(one.items);
    if (!one.$ref || shown.has(one.$ref)) return;
    shown.add(one.$ref);
    const target = resolve(api, one);
    const needed = new Set(target.required || []);
    const rows = Object.entries(target.properties || {}).map(([name, field]) => [
      make("code", {}, name),
      typeOf(api, field) + (needed.has(name) ? "" : ", optional"),
      limitsOf(field),
      prose(field.description || ""),
    ]);
    found.push(make("h4", {}, one.$ref.split("/").pop()), table(["Field", "Type", "Limits", "Meaning"], rows));
    Object.values(target.properties || {}).forEach(inner);
  };
  inner(schema);
  return found;
}

let model = null; // embedding model of the build, as the answer with the document named it

function commonHeaders() {
  const key = byId("key").value;
  return { ...(key ? { "X-API-Key": key } : {}), ...(model ? { "X-Embedding-Model": model } : {}) };
}

const urlOf = (path) => new URL(path.slice(1), document.baseURI);

function curlOf(method, path, media, body) {
  const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const parts = ["curl", "-s", "-X", method.toUpperCase()];
  if (byId("key").value) parts.push("-H", quoted("X-API-Key: KEY"));
  if (model) parts.push("-H", quoted(`X-Embedding-Model: ${model}`));
  if (body !== null) parts.push("-H", quoted(`Content-Type: ${media}`), "--data-binary", quoted(body));
  return [...parts, quoted(urlOf(path).href)].join(" ");
}

/** The fields for the parameters of an address, and a function that gives the address with what they hold. */
function addressOf(path, parameters) {
  const inputs = parameters.map(({ name, required, example, schema }) => {
    const value = required || example !== undefined ? String(example ?? exampleOf({}, schema)) : "";
    return make("input", { value, name, ariaLabel: name, spellcheck: false, placeholder: schema.default === undefined ? "" : String(schema.default) });
  });
  const labels = parameters.map(({ name, required }, i) => make("label", {}, make("code", {}, name), required ? " " : " (optional) ", inputs[i]));
  const address = () => {
    const query = new URLSearchParams();
    let filled = path;
    parameters.forEach((parameter, i) => {
      const { value } = inputs[i];
      if (parameter.in === "path") filled = filled.replace(`{${parameter.name}}`, encodeURIComponent(value));
      else if (value) query.set(parameter.name, value);
    });
    return query.size ? `${filled}?${query}` : filled;
  };
  return [labels.length ? make("div", { className: "bar parameters" }, ...labels) : null, address];
}

/** The part of an operation that sends its example, as it is or changed, and shows what comes back. */
function trial(api, method, path, content, parameters) {
  const [fields, address] = addressOf(path, parameters);
  const media = make("select", { ariaLabel: "Content type" }, ...Object.keys(content).map((name) => make("option", {}, name)));
  const body = make("textarea", { spellcheck: false, ariaLabel: `Body of ${path}` });
  const answer = make("pre", { hidden: true, tabIndex: 0 });
  const state = make("span", { className: "quiet", role: "status" });
  const hasBody = Object.keys(content).length > 0;
  const fill = () => { body.value = bodyOf(api, content[media.value]); };
  media.addEventListener("change", fill);
  if (hasBody) fill();
  const send = make("button", { type: "button", className: "main" }, "Send");
  send.addEventListener("click", async () => {
    send.disabled = true;
    state.textContent = "Sending …";
    try {
      const headers = { ...commonHeaders(), ...(hasBody ? { "Content-Type": media.value } : {}) };
      const began = performance.now();
      const response = await fetch(urlOf(address()), { method: method.toUpperCase(), headers, body: hasBody ? body.value : undefined });
      const text = await response.text();
      state.textContent = `${response.status} in ${(performance.now() - began).toFixed(1)} ms · build ${response.headers.get("X-Index-Version")}`;
      state.className = response.ok ? "quiet" : "bad";
      try { answer.textContent = pretty(JSON.parse(text)); } catch { answer.textContent = text; }
      answer.hidden = false;
    } catch (error) {
      state.textContent = `No answer: ${error.message}`;
      state.className = "bad";
    } finally {
      send.disabled = false;
    }
  });
  const copy = make("button", { type: "button" }, "Copy as curl");
  copy.addEventListener("click", async () => {
    const command = curlOf(method, address(), media.value, hasBody ? body.value : null);
    try {
      await navigator.clipboard.writeText(command);
      state.textContent = "Copied.";
    } catch {
      answer.textContent = command; // a page that did not come over HTTPS may not reach the clipboard
      answer.hidden = false;
    }
  });
  const bar = make("div", { className: "bar" }, send, copy, hasBody ? media : null, state);
  return make("div", {}, fields, hasBody ? body : null, bar, answer);
}

/** One line: what an operation answers with, and the problems it may come to, which are described once. */
function answersOf(api, operation) {
  const { "200": good, ...problems } = operation.responses;
  const [media, headers] = [Object.keys(good.content || {}), Object.keys(good.headers || {})];
  const statuses = Object.keys(problems).flatMap((status) => [make("a", { href: `#status-${status}` }, status), " "]);
  return make("p", { className: "quiet" }, make("code", {}, "200"), ` as ${media.join(" or ")}, with ${headers.join(", ")}. Problems: `, ...statuses);
}

/** All problems that any operation may come to. */
function statusesOf(api) {
  const found = Object.values(api.paths).flatMap((methods) => Object.values(methods).flatMap(({ responses }) => Object.entries(responses)));
  const problems = new Map(found.filter(([status]) => status !== "200").map(([status, reference]) => [status, resolve(api, reference)]));
  const rows = [...problems].sort().map(([status, { description, headers }]) => [
    make("code", { id: `status-${status}` }, status),
    prose(description),
    make("code", {}, Object.keys(headers || {}).join(", ")),
  ]);
  return table(["Status", "Meaning", "Headers"], rows);
}

function operationOf(api, path, method, operation) {
  const content = operation.requestBody ? resolve(api, operation.requestBody).content : {};
  const answer = operation.responses["200"].content || {};
  const parts = [
    make("h3", {}, make("span", { className: `method ${method}` }, method.toUpperCase()), path,
      operation.security ? make("span", { className: "key" }, "needs an API key") : ""),
    make("p", {}, ...prose(operation.summary)),
  ];
  if (operation.description) parts.push(make("p", { className: "quiet" }, ...prose(operation.description)));
  const bodySchema = Object.values(content)[0]?.schema;
  parts.push(...fieldsOf(api, bodySchema));
  const parameters = parametersOf(api, operation);
  if (parameters.length) {
    const rows = parameters.map(({ name, in: where, required, schema, description }) => [
      make("code", {}, name), `${where}, ${typeOf(api, schema)}${required ? "" : ", optional"}`, limitsOf(schema), prose(description || ""),
    ]);
    parts.push(make("h4", {}, "Parameters"), table(["Name", "Type", "Limits", "Meaning"], rows));
  }
  parts.push(make("h4", {}, "Try it"), trial(api, method, path, content, parameters));
  const [firstMedia] = Object.values(answer);
  if (firstMedia?.example !== undefined) {
    parts.push(make("details", {}, make("summary", {}, "Example of an answer"), make("pre", { tabIndex: 0 }, exampleText(firstMedia.example))));
  }
  parts.push(make("h4", {}, "Answers"), answersOf(api, operation));
  const shapes = fieldsOf(api, firstMedia?.schema);
  if (shapes.length) parts.push(make("details", {}, make("summary", {}, "Fields of an answer"), ...shapes));
  return make("section", { id: operation.operationId }, ...parts);
}

function show(api) {
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = (operation.tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push([path, method, operation]);
    }
  }
  byId("title").textContent = api.info.title;
  document.title = `${api.info.title}: API documents`;
  byId("about").replaceChildren(...api.info.description.split("\n\n").filter((text) => text.trim()).map((text) => make("p", {}, ...prose(text))));
  const contents = [], sections = [];
  for (const [tag, operations] of groups) {
    contents.push(make("h3", {}, tag));
    for (const [path, method, operation] of operations) {
      const breakable = path.split("/").flatMap((step, i) => (i ? ["/", make("wbr"), step] : [step]));
      contents.push(make("a", { href: `#${operation.operationId}` }, `${method.toUpperCase()} `, ...breakable));
      sections.push(operationOf(api, path, method, operation));
    }
  }
  byId("contents").replaceChildren(...contents);
  const problem = { $ref: "#/components/schemas/Problem" };
  byId("operations").replaceChildren(...sections, make("section", { id: "problems" }, make("h3", {}, "Problems"), statusesOf(api), ...fieldsOf(api, problem)));
}

async function load() {
  try {
    const response = await fetch(urlOf("/openapi.json"), { headers: commonHeaders() });
    model = response.headers.get("X-Embedding-Model");
    byId("access").hidden = byId("access").hidden && response.status !== 401;
    if (!response.ok) throw new Error((await response.json()).detail);
    show(await response.json());
    byId("notice").hidden = true;
    if (location.hash) byId(location.hash.slice(1))?.scrollIntoView(); // what a link named was not there before
  } catch (error) {
    byId("notice").textContent = error.message;
    byId("notice").hidden = false;
  }
}

byId("access").addEventListener("submit", (event) => { event.preventDefault(); load(); });
load();
