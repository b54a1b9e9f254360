// The explorer page. Names of products and users are data: they reach the document as text, never as markup.
"use strict";

const COMPLETION_DELAY = 100; // milliseconds after the last key
const MAX_MARKS = 100; // matches of a side shown on the map
const REACH = 9; // pixels between the pointer and a product it points to

const at = (id) => document.getElementById(id);
const state = {
  mode: "sample",
  samples: [],
  likes: [], // products as {id, name}
  excluded: [],
  sampledPoints: [],
  hasMap: true,
  view: null, // what part of the map is shown
  model: null, // embedding model of the build, as the last answer named it
  run: 0, // number of the latest run; answers to earlier ones are dropped
};

// ---- the service

class Problem extends Error {}

async function fetchJson(path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (at("key").value) headers["X-API-Key"] = at("key").value;
  if (state.model) headers["X-Embedding-Model"] = state.model;
  let response;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", body, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service does not answer.");
  }
  state.model = response.headers.get("X-Embedding-Model");
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Problem(`${path} answered ${response.status} without JSON.`);
  }
  if (response.status === 401) at("key-field").hidden = false;
  if (!response.ok) {
    const problem = new Problem(`${answer.title}: ${answer.detail}`);
    problem.status = response.status;
    problem.answer = answer;
    throw problem;
  }
  return answer;
}

function currentRequest() {
  const k = at("k").value.trim();
  const common = { k: k === "" ? undefined : Number(k) };
  if (state.excluded.length) common.exclude = state.excluded.map((product) => product.id);
  if (state.mode === "sample") {
    const user = state.samples[at("sample").selectedIndex];
    return user && { path: "/infer", body: { name: user.name, vector: user.vector, ...common }, name: user.name };
  }
  if (state.mode === "likes") {
    const ids = state.likes.map((product) => product.id);
    return ids.length ? { path: "/similar", body: { ids, ...common }, name: "user" } : null;
  }
  const text = at("vector").value.trim();
  if (!text) return null;
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Problem(`The vector is not JSON: ${error.message}`);
  }
  const isUser = value !== null && typeof value === "object" && !Array.isArray(value);
  const name = isUser && typeof value.name === "string" ? value.name : "user";
  return { path: "/infer", body: { name, vector: isUser ? value.vector : value, ...common }, name };
}

async function run() {
  const number = ++state.run;
  const results = at("results");
  let request = null;
  try {
    request = currentRequest();
    if (!request) {
      show(null, null);
      return;
    }
    const body = JSON.stringify(request.body);
    showRequest(request, body);
    results.setAttribute("aria-busy", "true");
    const answer = await fetchJson(request.path, body);
    if (number !== state.run) return;
    show(request, answer);
    await showMarks(request, answer, number);
  } catch (error) {
    if (number !== state.run) return;
    if (!(error instanceof Problem)) throw error;
    show(request, null, error);
  } finally {
    if (number === state.run) results.removeAttribute("aria-busy");
  }
}

// ---- the user

function setMode(mode) {
  state.mode = mode;
  state.excluded = [];
  for (const panel of document.querySelectorAll("[data-mode]")) panel.hidden = panel.dataset.mode !== mode;
  for (const radio of document.querySelectorAll("#modes input")) radio.checked = radio.value === mode;
}

function showSampleLikes() {
  const user = state.samples[at("sample").selectedIndex];
  at("sample-likes").textContent = user && user.likes.length ? `Likes ${user.likes.join(", ")}.` : "";
}

function chips(list, products, verb, remove) {
  list.replaceChildren(
    ...products.map((product, i) => {
      const name = element("span", labelOf(product));
      name.title = labelOf(product);
      const button = element("button", "×");
      button.type = "button";
      button.setAttribute("aria-label", `${verb} ${labelOf(product)}`);
      button.addEventListener("click", () => {
        remove(i);
        const next = list.querySelectorAll("button")[Math.min(i, products.length - 1)];
        (next || (list.id === "likes" ? at("like") : document.querySelector("#ask [type=submit]"))).focus();
      });
      return element("li", name, button);
    }),
  );
}

function showLikes() {
  chips(at("likes"), state.likes, "Remove", (i) => {
    state.likes.splice(i, 1);
    showLikes();
    run();
  });
}

function addLike(product) {
  if (!state.likes.some((liked) => liked.id === product.id)) state.likes.push(product);
  showLikes();
  run();
}

function setUpCompletion() {
  const input = at("like");
  const list = at("completions");
  let products = [];
  let active = -1;
  let timer = 0;
  let controller = null;

  const close = () => {
    clearTimeout(timer);
    if (controller) controller.abort();
    products = [];
    active = -1;
    list.hidden = true;
    list.replaceChildren();
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const activate = (i) => {
    active = i;
    [...list.children].forEach((option, j) => option.setAttribute("aria-selected", String(i === j)));
    if (i < 0) {
      input.removeAttribute("aria-activedescendant");
    } else {
      input.setAttribute("aria-activedescendant", list.children[i].id);
      list.children[i].scrollIntoView({ block: "nearest" });
    }
  };
  const choose = (i) => {
    const product = products[i];
    input.value = "";
    close();
    addLike(product);
  };
  const open = () => {
    list.replaceChildren(
      ...products.map((product, i) => {
        const option = element("li", labelOf(product));
        option.id = `completion-${i}`;
        option.setAttribute("role", "option");
        option.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
        option.addEventListener("click", () => choose(i));
        return option;
      }),
    );
    if (!products.length) {
      const none = element("li", "No product's name begins like this.");
      none.className = "none";
      list.append(none);
    }
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    activate(products.length ? 0 : -1);
  };
  const complete = async () => {
    if (controller) controller.abort();
    controller = new AbortController();
    const query = new URLSearchParams({ prefix: input.value.trimStart(), limit: "10" });
    try {
      products = (await fetchJson(`/products?${query}`, undefined, controller.signal)).products;
      open();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem)) throw error;
      showProblem(error.message);
    }
  };

  input.addEventListener("input", () => {
    clearTimeout(timer);
    if (input.value.trim()) timer = setTimeout(complete, COMPLETION_DELAY);
    else close();
  });
  input.addEventListener("keydown", (event) => {
    const isOpen = !list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      if (isOpen && products.length) activate((active + step + products.length) % products.length);
      else if (!isOpen && input.value.trim()) complete();
    } else if (event.key === "Enter" && input.value.trim()) {
      event.preventDefault(); // runs nothing while a name is half typed
      if (isOpen && active >= 0) choose(active);
    } else if (event.key === "Escape" && isOpen) {
      event.preventDefault();
      close();
    } else if (event.key === "Backspace" && !input.value && state.likes.length) {
      state.likes.pop();
      showLikes();
      run();
    }
  });
  input.addEventListener("blur", close);
}

// ---- matches

function show(request, answer, problem) {
  showProblem(problem ? problem.message : "");
  at("answer").textContent = pretty(answer || (problem && problem.answer) || null);
  if (!request) showRequest(null);
  const sides = { best: answer ? answer.best : [], worst: answer ? answer.worst : [] };
  const scores = [...sides.best, ...sides.worst].map((match) => match.score);
  const low = Math.min(0, ...scores);
  for (const side of ["best", "worst"]) {
    const rows = sides[side].map((match) => bar(match, low));
    if (!rows.length) {
      const hint = { likes: "Add a product that this user likes.", vector: "Paste a vector and run." }[state.mode];
      const none = element("li", answer ? "No products left." : request || !hint ? "—" : hint);
      none.className = "empty";
      rows.push(none);
    }
    at(side).replaceChildren(...rows);
  }
  at("excluded-field").hidden = !state.excluded.length;
  chips(at("excluded"), state.excluded, "Take back", (i) => {
    state.excluded.splice(i, 1);
    run();
  });
  at("status").textContent = answer ? `${sides.best.length} best and ${sides.worst.length} worst matches` : "";
  if (!answer) drawMarks([]);
}

function bar(match, low) {
  const name = element("span", labelOf(match));
  name.className = "name";
  name.title = match.name === match.id ? match.name : `${match.name} (${match.id})`;
  const score = element("span", match.score.toFixed(3).replace("-", "−"));
  score.className = "score";
  score.title = String(match.score);
  const button = element("button", "×");
  button.type = "button";
  button.title = "Exclude";
  button.setAttribute("aria-label", `Exclude ${labelOf(match)}`);
  button.addEventListener("click", () => exclude(match, button));
  const filled = element("span");
  filled.className = "bar";
  const place = (value) => (100 * (value - low)) / (1 - low);
  filled.style.left = `${place(Math.min(0, match.score))}%`;
  filled.style.width = `${place(Math.max(0, match.score)) - place(Math.min(0, match.score))}%`;
  const track = element("span", filled);
  track.className = "track";
  track.setAttribute("aria-hidden", "true");
  if (low < 0) {
    const zero = element("span");
    zero.className = "zero";
    zero.style.left = `${place(0)}%`;
    track.append(zero);
  }
  const row = element("li", name, score, button, track);
  row.dataset.id = match.id;
  return row;
}

async function exclude(match, button) {
  const list = button.closest("ol");
  const row = [...list.children].indexOf(button.closest("li"));
  state.excluded.push({ id: match.id, name: match.name });
  await run();
  const buttons = list.querySelectorAll("button");
  if (buttons.length) buttons[Math.min(row, buttons.length - 1)].focus({ preventScroll: true });
}

function showProblem(message) {
  at("problem").textContent = message;
  at("problem").hidden = !message;
}

// ---- request and answer

function showRequest(request, body) {
  at("request").textContent = request ? `POST ${request.path}\n\n${pretty(request.body)}` : "";
  at("curl").textContent = request ? curl(request.path, body) : "";
  at("copy").disabled = !request;
}

function curl(path, body) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const key = at("key").value ? ' -H "X-API-Key: $RECO_API_KEY"' : "";
  return `curl -s ${quoted(location.origin + path)}${key} -d ${quoted(body)}`;
}

function pretty(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value === null ? "" : JSON.stringify(value);
  const isRow = (member) => member !== null && typeof member === "object";
  const members = Object.entries(value).map(([name, member]) => {
    const rows = Array.isArray(member) && member.length > 0 && member.every(isRow);
    const text = rows ? `[\n${member.map((row) => `    ${JSON.stringify(row)}`).join(",\n")}\n  ]` : JSON.stringify(member);
    return text === undefined ? null : `  ${JSON.stringify(name)}: ${text}`;
  });
  return `{\n${members.filter((member) => member !== null).join(",\n")}\n}`;
}

async function copy() {
  const text = at("curl").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https, or without the user's leave, a browser lends no clipboard.
    getSelection().selectAllChildren(at("curl"));
    if (!document.execCommand("copy")) return;
  }
  at("copy").textContent = "Copied";
  setTimeout(() => (at("copy").textContent = "Copy"), 1500);
}

// ---- map

const canvas = document.querySelector("#map canvas");

async function showMarks(request, answer, number) {
  if (!state.hasMap) return;
  const matches = ["best", "worst"].flatMap((side) =>
    answer[side].slice(0, MAX_MARKS).map((match) => ({ ...match, side })),
  );
  const user = request.path === "/similar" ? { likes: request.body.ids } : { vector: request.body.vector };
  const body = JSON.stringify({ ids: matches.map((match) => match.id), ...user });
  const points = await fetchJson("/map", body);
  if (number !== state.run) return;
  const marks = matches.map((match, i) => ({ ...match, point: points.products[i] }));
  drawMarks([{ side: "user", name: request.name, point: points.vector || points.likes }, ...marks]);
}

function drawMarks(marks) {
  state.view = viewOf(marks);
  drawLandmarks();
  tip(null);
  at("marks").replaceChildren(
    ...marks.map((mark, i) => {
      const button = element("button", element("i"));
      button.type = "button";
      button.className = mark.side;
      button.tabIndex = i ? -1 : 0;
      const [left, top] = inView(mark.point);
      button.style.left = `${100 * left}%`;
      button.style.top = `${100 * top}%`;
      const label = mark.side === "user" ? mark.name : `${labelOf(mark)} · ${mark.side} ${mark.score.toFixed(3).replace("-", "−")}`;
      button.setAttribute("aria-label", label);
      const here = () => {
        tip(label, left, top);
        highlight(mark);
      };
      const gone = () => {
        tip(null);
        highlight(null);
      };
      button.addEventListener("pointerenter", here);
      button.addEventListener("focus", here);
      button.addEventListener("pointerleave", gone);
      button.addEventListener("blur", gone);
      return button;
    }),
  );
}

function moveBetweenMarks(event) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const buttons = [...at("marks").children];
  const from = buttons.indexOf(document.activeElement);
  if (!step || from < 0) return;
  event.preventDefault();
  const to = (from + step + buttons.length) % buttons.length;
  buttons[from].tabIndex = -1;
  buttons[to].tabIndex = 0;
  buttons[to].focus();
}

function highlight(mark) {
  for (const row of document.querySelectorAll(".bars li")) {
    const isIt = mark !== null && row.dataset.id === mark.id && row.parentElement.id === mark.side;
    row.classList.toggle("shown", isIt);
  }
}

// The square that holds all products and marks.
function viewOf(marks) {
  const points = [...state.sampledPoints.map((product) => [product.x, product.y]), ...marks.map((mark) => mark.point)];
  const range = (axis) => {
    let low = Infinity;
    let high = -Infinity;
    for (const point of points) {
      low = Math.min(low, point[axis]);
      high = Math.max(high, point[axis]);
    }
    return points.length ? [low, high] : [-1, 1];
  };
  const [left, right] = range(0);
  const [bottom, top] = range(1);
  const size = 1.1 * Math.max(right - left, top - bottom, 1e-6);
  return { left: (left + right - size) / 2, top: (top + bottom + size) / 2, size };
}

const inView = ([x, y]) => [(x - state.view.left) / state.view.size, (state.view.top - y) / state.view.size];

function drawLandmarks() {
  if (!state.view) return;
  const scale = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--other");
  context.globalAlpha = state.sampledPoints.length > 1500 ? 0.6 : 0.85;
  for (const product of state.sampledPoints) {
    const [left, top] = inView([product.x, product.y]);
    context.beginPath();
    context.arc(left * width, top * height, 1.8, 0, 2 * Math.PI);
    context.fill();
  }
}

function pointAt(event) {
  if (!state.view || event.target.closest("#marks button")) return;
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const x = event.clientX - left;
  const y = event.clientY - top;
  let nearest = null;
  let least = REACH;
  for (const product of state.sampledPoints) {
    const place = inView([product.x, product.y]);
    const distance = Math.hypot(place[0] * width - x, place[1] * height - y);
    if (distance < least) [nearest, least] = [{ product, place }, distance];
  }
  if (nearest) tip(labelOf(nearest.product), ...nearest.place);
  else tip(null);
}

function tip(text, left, top) {
  const note = at("tip");
  note.hidden = text === null;
  if (text === null) return;
  note.textContent = text;
  note.style.left = left < 0.5 ? `calc(${100 * left}% + 10px)` : "auto";
  note.style.right = left < 0.5 ? "auto" : `calc(${100 * (1 - left)}% + 10px)`;
  note.style.top = top < 0.5 ? `calc(${100 * top}% + 8px)` : "auto";
  note.style.bottom = top < 0.5 ? "auto" : `calc(${100 * (1 - top)}% + 8px)`;
}

// ---- start

const labelOf = (product) => (product.name.trim() ? product.name : product.id);

function element(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children); // strings become text
  return made;
}

async function start() {
  try {
    const [index, samples, map] = await Promise.all([fetchJson("/index"), fetchJson("/samples").catch(without), fetchJson("/map").catch(without)]);
    at("key-field").hidden = !at("key").value;
    at("index-facts").textContent = `${index.products.toLocaleString("en")} products, ${index.dimension} dimensions`;
    state.samples = samples ? samples.users : [];
    state.sampledPoints = map ? map.products : [];
    state.hasMap = map !== null;
    at("map-panel").hidden = !map;
    at("sample").replaceChildren(...state.samples.map((user) => element("option", user.name)));
    const radio = (mode) => document.querySelector(`#modes [value=${mode}]`);
    radio("sample").disabled = !state.samples.length;
    radio("likes").disabled = !samples;
    setMode(state.samples.length ? "sample" : samples ? "likes" : "vector");
    showSampleLikes();
    await run();
    if (!state.view) drawMarks([]);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(error.message);
  }
}

// An engine that looks no products up is asked with vectors alone.
function without(problem) {
  if (problem.status === 501) return null;
  throw problem;
}

function again() {
  state.excluded = [];
  return run();
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (at("index-facts").textContent) run();
  else start();
});
at("modes").addEventListener("change", (event) => {
  setMode(event.target.value);
  run();
});
at("sample").addEventListener("change", () => {
  showSampleLikes();
  again();
});
at("k").addEventListener("change", run);
at("copy").addEventListener("click", copy);
at("marks").addEventListener("keydown", moveBetweenMarks);
at("map").addEventListener("pointermove", pointAt);
at("map").addEventListener("pointerleave", () => tip(null));
new ResizeObserver(drawLandmarks).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawLandmarks);
setUpCompletion();
showLikes();
start();
