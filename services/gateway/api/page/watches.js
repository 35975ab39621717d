// Standing questions of one session: add a condition, see whether it holds, and every time that its
// answer changed.

import { clock, el, newLocalId, reveal, setText } from "./dom.js";

const MAX_EVENTS = 50; // kept in the list of each watch
const percent = (score = 0) => `${Math.round(100 * score)} % yes`;

const fields = [
  { name: "interval_s", label: "Check every", value: 1, min: 0.2 },
  { name: "debounce_s", label: "Must hold for", value: 0.5, min: 0 },
  { name: "cooldown_s", label: "Pause between events", value: 2, min: 0 },
];

export class Watches {
  #list = el("ul", { class: "watch-list" });
  #options = el("datalist", { id: newLocalId("conditions") });
  #error = el("p", { class: "error", role: "alert" });
  #rows = new Set();
  #unsure = false; // the model does not know such pictures: nothing fires, and what was told may not hold

  constructor(connection, memory, suggestions) {
    this.connection = connection;
    this.memory = memory;
    const options = this.#options;
    this.input = el("input", {
      name: "condition",
      autocomplete: "off",
      list: options.id,
      maxlength: 400,
      "aria-label": "Tell me when",
    });
    this.suggest(suggestions);
    const timing = fields.map(({ name, label, value, min }) =>
      el("label", {}, `${label} `, el("input", { type: "number", name, value, min, max: 3600, step: "any" }), " s"),
    );
    const form = el(
      "form",
      { class: "watch-form" },
      el("div", { class: "row" }, this.input, el("button", { class: "primary", text: "Watch" })),
      options,
      el("details", {}, el("summary", { class: "small muted", text: "Timing" }), el("div", { class: "timing" }, ...timing)),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const timing = Object.fromEntries(fields.map(({ name }) => [name, Number(form.elements[name].value) || 0]));
      if (this.add(this.input.value, timing)) this.input.value = "";
    });
    this.node = el("div", { class: "room" }, form, this.#error, this.#list);
    connection.addEventListener("session_state", ({ detail }) => {
      this.#unsure = detail.stats?.degraded?.includes("unfamiliar_picture") ?? false;
      for (const row of this.#rows) this.#show(row);
    });
    for (const { request, last } of memory.watches) {
      const row = this.#add(request);
      if (last) this.#fire(row, last);
    }
  }

  /** Offers these conditions in the place of others. */
  suggest(conditions) {
    this.#options.replaceChildren(...conditions.map((value) => el("option", { value })));
    this.input.placeholder = conditions[0] ? `Tell me when … ${conditions[0]}` : "Tell me when …";
  }

  add(text, timing = {}) {
    const condition = text.trim();
    setText(this.#error, "");
    if (!condition) return false;
    const { watch } = this.#add({ condition, ...timing });
    this.memory.watch(watch.request);
    return true;
  }

  /** Brings a watch into sight, and leads the keyboard there. */
  reveal(id) {
    reveal([...this.#list.children].find(({ dataset }) => dataset.watch === id));
  }

  #add({ condition, ...timing }) {
    const watch = this.connection.watch(condition, timing);
    const state = el("span", { class: "badge" });
    const remove = el("button", { type: "button", class: "quiet", "aria-label": `Remove the watch: ${condition}`, text: "Remove", on: { click: () => watch.remove() } });
    const events = el("ol");
    const log = el("div", { class: "events", role: "log", tabindex: "0", "aria-label": `Events of: ${condition}` }, events);
    const check = el("p", { class: "muted small stands" });
    const doubt = el("p", { class: "degraded small", role: "status" });
    const node = el("li", { data: { watch: watch.id } }, el("div", { class: "row" }, state, el("span", { class: "condition", text: condition }), remove), check, doubt, log);
    const row = { watch, node, state, events, check, doubt, fired: false };
    this.#list.append(node);
    this.#rows.add(row);
    this.#show(row);
    watch.addEventListener("change", () => this.#show(row));
    watch.addEventListener("event", ({ detail }) => {
      this.#fire(row, detail);
      this.memory.watch(watch.request, detail);
    });
    watch.addEventListener("end", () => this.#remove(row), { once: true });
    return row;
  }

  #remove(row) {
    const { watch, node } = row;
    this.#rows.delete(row);
    if (watch.error && this.connection.state !== "closed") setText(this.#error, `“${watch.condition}”: ${watch.error.message}`);
    node.remove();
    if (this.connection.state !== "closed") this.memory.unwatch(watch.id);
  }

  #show(row) {
    const { watch, state, check, doubt } = row;
    if (watch.active === null) row.fired = false; // it begins anew, and is told again where it holds
    const [style, text] = watch.active ? ["on", "now"] : row.fired ? ["off", "no more"] : ["none", "not yet"];
    setText(state, this.#unsure ? "cannot tell" : text);
    state.dataset.state = this.#unsure ? "none" : style;
    const { status } = watch;
    setText(check, status ? [`last checked at ${clock(status.capture_ns)}`, !status.unfamiliar_picture && percent(status.score)].filter(Boolean).join(": ") : "not checked yet");
    setText(doubt, doubtOf(status ?? {}));
  }

  #fire(row, { active = false, score = 0, capture_ns, degraded = [] }) {
    const { watch } = row;
    watch.active = active;
    row.fired = true;
    this.#show(row);
    const time = capture_ns ? clock(capture_ns) : "";
    this.newest = [`${time} ${active ? "now" : "no more"}: ${watch.condition}`.trim(), active ? "on" : "off"];
    row.events.prepend(
      el(
        "li",
        { class: active ? "on" : "off" },
        el("time", { text: time }),
        ` ${active ? "it became true" : "it is no longer true"} `,
        el("span", { class: "muted", text: `(${percent(score)}${degraded.includes("fallback_model") ? ", by the fallback model" : ""})` }),
      ),
    );
    while (row.events.children.length > MAX_EVENTS) row.events.lastChild.remove();
  }
}

// Why a watch may be of no use, in words; "" where it is fine.
function doubtOf({ unknown_words: unknown = [], undecided = false, unfamiliar_picture: strange = false }) {
  if (strange) return "Cannot tell: the picture is unlike those that the model was trained on.";
  if (unknown.length > 0) return `The model does not know ${unknown.map((word) => `“${word}”`).join(", ")}: it only guesses.`;
  return undecided ? "The model would rather not say yes or no: it may not understand this." : "";
}
