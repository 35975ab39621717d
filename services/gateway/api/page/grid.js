// All sessions at once: a small live picture of each, its badge and what was last noticed in it.

import { byId, el, setText } from "./dom.js";
import { server } from "./server.js";
import { kindOf, nameOf, stateOf } from "./sessions.js";

const LIVE_MS = 1000; // from one picture of a session to the next
const WIDTH = 320; // pixels of a picture
const AT_ONCE = 4; // requests under way

export class Grid {
  #cells = new Map();
  #sessions = [];
  #running = 0;

  /** noticed: what was last noticed in a session, [text, class], or undefined. */
  constructor({ onChoose, noticed }) {
    this.dialog = byId("grid");
    this.list = byId("grid-list");
    this.onChoose = onChoose;
    this.noticed = noticed;
    this.seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const cell = this.#cells.get(target.dataset.session);
        if (cell) cell.seen = isIntersecting;
      }
    });
    byId("grid-open").addEventListener("click", () => this.open());
    byId("grid-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => this.#clear());
  }

  open() {
    this.dialog.showModal();
    this.show(this.#sessions);
    this.#fetch();
  }

  /** Brings the cells up to date in place, so that focus stays where it is. */
  show(sessions) {
    this.#sessions = sessions;
    byId("grid-open").hidden = sessions.length < 2;
    if (!this.dialog.open) return;
    setText(byId("grid-count"), sessions.length === 1 ? "1 session" : `${sessions.length} sessions`);
    for (const id of this.#cells.keys()) if (!sessions.some((session) => session.id === id)) this.#drop(id);
    sessions.forEach((session, place) => {
      const cell = this.#cells.get(session.id) ?? this.#add(session.id);
      if (this.list.children[place] !== cell.node) this.list.insertBefore(cell.node, this.list.children[place] ?? null);
      this.#fill(cell, session);
    });
  }

  #add(id) {
    const cell = { seen: false, url: "", at: 0, busy: false };
    cell.image = el("img", { alt: "", hidden: true });
    cell.badge = el("span", { class: "badge" });
    cell.name = el("span", { class: "name" });
    cell.facts = el("span", { class: "facts muted small" });
    cell.event = el("span", { class: "noticed small" });
    const choose = () => {
      this.dialog.close();
      this.onChoose(id);
    };
    cell.button = el("button", { type: "button", class: "cell", on: { click: choose } }, el("span", { class: "shot" }, cell.image), cell.name, cell.badge, cell.facts, cell.event);
    cell.node = el("li", { data: { session: id } }, cell.button);
    this.#cells.set(id, cell);
    this.seen.observe(cell.node);
    return cell;
  }

  #fill(cell, session) {
    const [style, state] = stateOf(session);
    const [text, kind] = this.noticed(session.id) ?? ["", ""];
    cell.session = session;
    cell.badge.dataset.state = style;
    setText(cell.badge, state);
    setText(cell.name, nameOf(session));
    setText(cell.facts, [kindOf(session), style === "live" ? `${(session.stats?.fps_in ?? 0).toFixed(1)} fps` : ""].filter(Boolean).join(" · "));
    setText(cell.event, text);
    cell.event.dataset.kind = kind;
  }

  /** Asks for the picture that is the oldest of those in sight, a few at a time. */
  #fetch() {
    if (!this.dialog.open) return;
    const now = performance.now();
    const due = [...this.#cells.values()].filter(({ seen, busy, at, session }) => {
      const shown = Number(session?.stats?.frames_received ?? 0) > 0;
      const resting = at > 0 && session?.state !== "SESSION_STATE_LIVE";
      return seen && !busy && shown && !resting && now - at >= LIVE_MS;
    });
    due.sort((one, other) => one.at - other.at);
    if (!document.hidden) for (const cell of due.slice(0, AT_ONCE - this.#running)) this.#picture(cell);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#fetch(), 100);
  }

  async #picture(cell) {
    cell.busy = true;
    cell.at = performance.now();
    this.#running += 1;
    try {
      const blob = await server.picture(cell.session.id, { width: WIDTH });
      if (blob && this.#cells.get(cell.session.id) === cell) {
        const old = cell.url;
        cell.url = URL.createObjectURL(blob);
        cell.image.src = cell.url;
        cell.image.hidden = false;
        if (old) URL.revokeObjectURL(old);
      }
    } catch {
      // the badge says what is wrong; the last picture stays
    }
    cell.busy = false;
    this.#running -= 1;
  }

  #drop(id) {
    const cell = this.#cells.get(id);
    this.#cells.delete(id);
    this.seen.unobserve(cell.node);
    cell.node.remove();
    if (cell.url) URL.revokeObjectURL(cell.url);
  }

  #clear() {
    clearTimeout(this.timer);
    for (const id of [...this.#cells.keys()]) this.#drop(id);
  }
}
