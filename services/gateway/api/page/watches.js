// Standing questions of one session: add a condition, see whether it holds, and every time that its
// answer changed.

import { inWords } from "./api.js";
import { clock, el, newId, setText } from "./dom.js";

const MAX_EVENTS = 50; // kept in the list of each watch

const fields = [
  { name: "interval_s", label: "Check every", value: 1, min: 0.2 },
  { name: "debounce_s", label: "Must hold for", value: 0.5, min: 0 },
  { name: "cooldown_s", label: "Pause between events", value: 2, min: 0 },
];

export class Watches {
  #watches = new Map();
  #list = el("ul", { class: "watch-list" });
  #options = el("datalist", { id: newId("conditions") });
  #error = el("p", { class: "error", role: "alert" });

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
    for (const { request, last } of memory.watches) {
      this.#add(request);
      if (last) this.#fire(last);
    }
    this.#listen();
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
    const request = { watch: newId("watch"), condition, ...timing };
    this.#add(request);
    this.memory.watch(request);
    this.connection.send({ watch: request });
    return true;
  }

  #add(request) {
    const { watch: id, condition } = request;
    const state = el("span", { class: "badge", text: "not yet", data: { state: "none" } });
    const remove = el("button", { type: "button", class: "quiet", "aria-label": `Stop watching: ${condition}`, text: "Remove", on: { click: () => this.#remove(id) } });
    const events = el("ol", { class: "events", role: "log", "aria-label": `Events of: ${condition}` });
    const node = el("li", { data: { watch: id } }, el("div", { class: "row" }, state, el("span", { class: "condition", text: condition }), remove), events);
    this.#watches.set(id, { node, state, events, request });
    this.#list.append(node);
  }

  #remove(id) {
    this.#watches.get(id).node.remove();
    this.#watches.delete(id);
    this.memory.unwatch(id);
    this.connection.send({ unwatch: { watch: id } });
  }

  #listen() {
    this.connection.addEventListener("started", ({ detail }) => {
      for (const { request, state } of this.#watches.values()) {
        this.connection.send({ watch: request }); // one that is set already stays as it is
        if (detail.resumed === "line") continue;
        setText(state, "not yet"); // it begins anew, and is told again where it holds
        state.dataset.state = "none";
      }
    });
    this.connection.addEventListener("session_state", ({ detail }) => {
      const unsure = detail.stats?.degraded?.includes("unfamiliar_picture") ?? false;
      for (const { state } of this.#watches.values()) this.#doubt(state, unsure);
    });
    this.connection.addEventListener("watch_event", ({ detail }) => {
      const watch = this.#watches.get(detail.watch);
      if (!watch) return;
      this.#fire(detail);
      this.memory.watch(watch.request, detail);
    });
    this.connection.addEventListener("error", ({ detail }) => {
      const watch = this.#watches.get(detail.watch);
      if (!watch) return;
      setText(this.#error, `“${watch.request.condition}”: ${inWords(detail)}`);
      watch.node.remove();
      this.#watches.delete(detail.watch);
      this.memory.unwatch(detail.watch);
    });
  }

  // While the model does not know such pictures, nothing fires: what was told last may not hold.
  #doubt(state, unsure) {
    if (unsure === ("told" in state.dataset)) return;
    if (unsure) state.dataset.told = state.textContent;
    setText(state, unsure ? "cannot tell" : state.dataset.told);
    if (!unsure) delete state.dataset.told;
  }

  #fire({ watch: id, active = false, score = 0, capture_ns, degraded = [] }) {
    const watch = this.#watches.get(id);
    if (!watch) return;
    this.#doubt(watch.state, false);
    setText(watch.state, active ? "now" : "no more");
    watch.state.dataset.state = active ? "on" : "off";
    const time = capture_ns ? clock(capture_ns) : "";
    this.newest = [`${time} ${active ? "now" : "no more"}: ${watch.request.condition}`.trim(), active ? "on" : "off"];
    watch.events.prepend(
      el(
        "li",
        { class: active ? "on" : "off" },
        el("time", { text: time }),
        ` ${active ? "it became true" : "it is no longer true"} `,
        el("span", { class: "muted", text: `(${Math.round(100 * score)} % yes${degraded.includes("fallback_model") ? ", by the fallback model" : ""})` }),
      ),
    );
    while (watch.events.children.length > MAX_EVENTS) watch.events.lastChild.remove();
  }
}
