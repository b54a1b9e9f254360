// Elements and texts. Names of products and users are data: they reach the document as text, never as markup.

export const byId = (id) => document.getElementById(id);

/** Return an element with properties and children; strings become text. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export const labelOf = (product) => (product.name.trim() ? product.name : product.id);

export const shownScore = (score) => score.toFixed(3).replace("-", "−");

export const shownNumber = (number) => number.toLocaleString("en", { maximumSignificantDigits: 6 });

/** Fill a list with chips, of which each can be removed; the focus then goes to the next one, or to `fallback`. */
export function showChips(list, labels, verb, remove, fallback) {
  list.replaceChildren(
    ...labels.map((label, i) => {
      const button = element("button", { type: "button", ariaLabel: `${verb} ${label}` }, "×");
      button.addEventListener("click", () => {
        remove(i);
        const next = list.querySelectorAll("button")[Math.min(i, labels.length - 2)];
        (next || fallback).focus();
      });
      return element("li", {}, element("span", { title: label }, label), button);
    }),
  );
}

/** Return JSON for reading: a member a line, and an object in a list a line. */
export function pretty(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value === null ? "" : JSON.stringify(value);
  const isRow = (member) => member !== null && typeof member === "object";
  const members = Object.entries(value).map(([name, member]) => {
    const rows = Array.isArray(member) && member.length > 0 && member.every(isRow);
    const text = rows ? `[\n${member.map((row) => `    ${JSON.stringify(row)}`).join(",\n")}\n  ]` : JSON.stringify(member);
    return text === undefined ? null : `  ${JSON.stringify(name)}: ${text}`;
  });
  return `{\n${members.filter((member) => member !== null).join(",\n")}\n}`;
}
