// Building elements and words for people. All data reaches the page as text nodes or attributes set
// here, never as markup.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element. Attributes: `class`, `text`, `on` ({event: handler}), `data` ({name: value}) and any
 * attribute by name; false, null and undefined leave an attribute out. Children: nodes or strings.
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (name === "data") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Sets text only where it differs, so that screen readers and layout are not disturbed. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A time (ns since the epoch, a string in JSON) as local time of day, after its date where that is not today's. A
    camera without a clock begins in 1970, which tells nobody anything. */
export function clock(ns, { tenths = false } = {}) {
  const date = new Date(Number(ns) / 1e6);
  const today = date.getFullYear() < 2000 || date.toDateString() === new Date().toDateString();
  const time = `${today ? "" : `${date.toLocaleDateString()} `}${date.toLocaleTimeString(undefined, { hour12: false })}`;
  return tenths ? `${time}.${Math.floor(date.getMilliseconds() / 100)}` : time;
}

export function milliseconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value >= 10_000) return `${(value / 1000).toFixed(0)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

export const seconds = (value) => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} s`;

export const plural = (count, word) => `${count.toLocaleString()} ${word}${count === 1 ? "" : "s"}`;

/** "dialogue_unavailable" → "dialogue unavailable". */
export const words = (name) => name.replaceAll("_", " ");

/** Brings a node into sight, and leads the keyboard there. */
export function reveal(node) {
  if (!node) return;
  node.tabIndex = -1;
  node.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  node.focus({ preventScroll: true });
}

let ids = 0;

/** An id for an element, which no other on the page has. */
export const newLocalId = (prefix) => `${prefix}-${(ids += 1)}`;

/** Puts text on the clipboard and says so on the button. */
export async function copyFrom(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // no clipboard on plain-http pages: leave the text selected so that the usual key copies it
    const field = button.parentElement.querySelector("input");
    field?.select();
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => (button.textContent = label), 1500);
}

/** Asks a yes/no question in a dialog. */
export function confirmed(text) {
  const dialog = byId("confirm-dialog");
  byId("confirm-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
  );
}

const MAX_NOTICES = 3;

/** A message across the top of the page, until it is closed or `for_ms` have passed. */
export function notice(text, { kind = "error", for_ms = 0 } = {}) {
  const place = byId("notices");
  for (const other of place.children) if (other.firstChild.textContent === text) other.remove();
  while (place.children.length >= MAX_NOTICES) place.firstChild.remove();
  const node = el("div", { class: `notice ${kind}` }, el("span", { text }));
  node.append(el("button", { type: "button", "aria-label": "Close this message", text: "×", on: { click: () => node.remove() } }));
  place.append(node);
  if (for_ms > 0) setTimeout(() => node.remove(), for_ms);
}
