// A field that completes what is typed, with the keyboard or the pointer.

import { element } from "./dom.js";
import { Problem, fetchJson } from "./service.js";

const COMPLETION_DELAY = 100; // milliseconds after the last key
let boxes = 0;

/**
 * Make a field and its list a combobox. `pathOf(text)` is what the service is asked, `read(answer)` gives the options,
 * `show(option)` their text, and `choose(option)` takes one; with `opensEmpty` there are options before anything is typed.
 */
export function setUpCombobox(input, list, { pathOf, read, show, choose, none, opensEmpty = false, onProblem }) {
  const name = `completions-${++boxes}`;
  let options = [];
  let active = -1;
  let timer = 0;
  let controller = null;
  list.id ||= name;
  const attributes = { role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": list.id };
  for (const [attribute, value] of Object.entries(attributes)) input.setAttribute(attribute, value);

  const close = () => {
    clearTimeout(timer);
    if (controller) controller.abort();
    options = [];
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
  const take = (i) => {
    const option = options[i];
    input.value = "";
    close();
    choose(option);
  };
  const open = () => {
    list.replaceChildren(
      ...options.map((option, i) => {
        const item = element("li", { id: `${name}-${i}`, role: "option" }, show(option));
        item.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
        item.addEventListener("click", () => take(i));
        return item;
      }),
    );
    if (!options.length) list.append(element("li", { className: "none" }, none));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    activate(options.length ? 0 : -1);
  };
  const complete = async () => {
    if (controller) controller.abort();
    controller = new AbortController();
    try {
      options = read(await fetchJson(pathOf(input.value.trim()), undefined, controller.signal));
      open();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem)) throw error;
      onProblem(error);
    }
  };

  const hasOptions = () => opensEmpty || input.value.trim() !== "";
  input.addEventListener("input", () => {
    clearTimeout(timer);
    if (hasOptions()) timer = setTimeout(complete, COMPLETION_DELAY);
    else close();
  });
  if (opensEmpty) input.addEventListener("focus", complete);
  input.addEventListener("keydown", (event) => {
    const isOpen = !list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      if (isOpen && options.length) activate((active + step + options.length) % options.length);
      else if (!isOpen && hasOptions()) complete();
    } else if (event.key === "Enter" && (input.value.trim() || (isOpen && opensEmpty))) {
      event.preventDefault(); // runs nothing while a name is half typed
      if (isOpen && active >= 0) take(active);
    } else if (event.key === "Escape" && isOpen) {
      event.preventDefault();
      close();
    }
  });
  input.addEventListener("blur", close);
}
