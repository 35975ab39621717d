// What happened in one session, along time: what its watches told, what was asked, how its pictures
// were. A click leads to where it is told or, where there is one, shows the picture of that moment.
//
// Others add to it by `add`.

import { byId, clock, el, seconds, setText } from "./dom.js";
import { server } from "./server.js";
import { CONDITIONS, STATES } from "./sessions.js";

const MOST = 200; // entries kept
const MOST_PICTURES = 40;
const NEWS_S = 15; // a picture of now is one of the event's moment for so long
const AROUND_S = 3; // of a recording, before and after
const STRIP_S = { least: 60, most: 600 }; // shown at once, along time
const STRIP_MS = 5000;
const WIDTH = 640; // pixels of a picture

export class Timeline {
  #session;
  #entries = []; // the newest first: {at, kind, text, show, node, dot, url}
  #list = el("ol", { class: "moments", tabindex: "0", "aria-label": "What happened, the newest first" });
  #strip = el("div", { class: "strip", "aria-hidden": "true" });
  #none = el("p", { class: "empty muted small", text: "Nothing yet. What watches tell, answers, and how the pictures are will be here." });
  #last = {}; // of the session's state

  /** `chat` and `watches` show what an entry is about; `records()`: whether the server keeps the video. */
  constructor(connection, { chat, watches, records }) {
    this.records = records;
    this.#session = connection.session;
    this.node = el("div", { class: "room" }, this.#strip, this.#none, this.#list);
    const on = (kind, handler) => connection.addEventListener(kind, ({ detail }) => handler(detail));
    on("watch_event", ({ watch, condition, active = false, score = 0, capture_ns }) => {
      const text = `${active ? "now" : "no more"}: ${condition} (${Math.round(100 * score)} % yes)`;
      const entry = this.add({ at_ns: capture_ns, kind: active ? "on" : "off", text, show: () => watches.reveal(watch) });
      this.#picture(entry);
    });
    on("answer_done", ({ turn }) => {
      const question = chat.question(turn);
      if (question) this.add({ kind: "answer", text: `answered: ${question}`, show: () => chat.reveal(turn) });
    });
    on("source_health", ({ condition, since_ns }) => {
      const words = CONDITIONS[condition] ?? (condition === "SOURCE_CONDITION_FINE" ? "fine again" : "");
      if (words) this.#picture(this.add({ at_ns: since_ns, kind: words === "fine again" ? "on" : "unwell", text: `the picture is ${words}` }));
    });
    on("session_state", (session) => this.#follow(session));
    on("started", ({ session }) => this.#follow(session));
    connection.addEventListener("state", () => {
      if (connection.state === "lost" && this.#last.line !== "lost") this.add({ kind: "unwell", text: "the connection was lost" });
      if (connection.state === "open" && this.#last.line === "lost") this.add({ kind: "on", text: "the connection is back" });
      if (["lost", "open"].includes(connection.state)) this.#last.line = connection.state;
      if (connection.state === "closed") clearInterval(this.drawing);
    });
    this.drawing = setInterval(() => this.#draw(), STRIP_MS);
  }

  /**
   * Adds what happened at a time (ns since the epoch; now by default). `show` leads to more of it; `picture`
   * and `clip` are paths of what the server keeps of it.
   */
  add({ at_ns, kind, text, show = null, picture = "", clip = "" }) {
    const at = at_ns ? Number(at_ns) / 1e6 : Date.now();
    const same = this.#entries.find((entry) => entry.at === at && entry.text === text);
    if (same) return same; // told again after a break
    const entry = { at, kind, text, show, picture, clip, url: "" };
    entry.button = el("button", { type: "button", class: "moment", data: { kind }, on: { click: () => this.#show(entry) } }, el("time", { text: clock(at * 1e6) }), ` ${text}`);
    entry.button.disabled = !show && !picture && !clip;
    entry.button.classList.toggle("pictured", Boolean(picture || clip));
    entry.node = el("li", {}, entry.button);
    entry.dot = el("i", { class: "mark", title: text, data: { kind }, on: { click: () => this.#show(entry) } });
    const place = this.#entries.findIndex((each) => each.at <= at);
    this.#entries.splice(place < 0 ? this.#entries.length : place, 0, entry);
    this.#list.insertBefore(entry.node, place < 0 ? null : this.#list.children[place]);
    this.#strip.append(entry.dot);
    while (this.#entries.length > MOST) this.#drop(this.#entries.pop());
    this.#none.hidden = true;
    this.#draw();
    return entry;
  }

  /** Shows the picture or clip of what was added. */
  open({ at_ns, text }) {
    const at = Number(at_ns) / 1e6;
    const entry = this.#entries.find((each) => each.at === at && each.text === text);
    if (entry) this.#show(entry);
  }

  #drop({ node, dot, url }) {
    node.remove();
    dot.remove();
    if (url) URL.revokeObjectURL(url);
  }

  #follow({ state, moving = false } = {}) {
    const { state: before, moving: moved } = this.#last;
    this.#last = { ...this.#last, state, moving };
    if (before === undefined) return; // how it was found is no news
    if (moving && !moved) this.add({ kind: "unwell", text: "it moves to another worker" });
    if (!moving && moved) this.add({ kind: "on", text: "it has moved to another worker" });
    if (state !== before) this.add({ kind: state === "SESSION_STATE_LIVE" ? "on" : "unwell", text: (STATES[state] ?? ["", "its state is unknown"])[1] });
  }

  // The picture of now, where that is still the moment's.
  async #picture(entry) {
    if (entry.url || Date.now() - entry.at > 1000 * NEWS_S) return;
    const blob = await server.picture(this.#session, { width: WIDTH }).catch(() => null);
    if (!blob || !this.#entries.includes(entry)) return;
    entry.button.disabled = false;
    entry.url = URL.createObjectURL(blob);
    entry.late_s = Math.max(0, Date.now() - entry.at) / 1000;
    entry.button.classList.add("pictured");
    const old = this.#entries.filter(({ url }) => url).slice(MOST_PICTURES);
    for (const each of old) {
      URL.revokeObjectURL(each.url);
      each.url = "";
      each.button.classList.remove("pictured");
    }
  }

  async #show(entry) {
    const around = { from: entry.at / 1000 - AROUND_S, to: Math.min(Date.now(), entry.at + 1000 * AROUND_S) / 1000 };
    const recorded = `api/sessions/${encodeURIComponent(this.#session)}/recording?from=${around.from}&to=${around.to}`;
    const kept = entry.clip || (entry.kind !== "answer" && !entry.picture && this.records() ? recorded : "");
    const clip = kept ? await fetched(kept) : "";
    if (!clip && !entry.url && entry.picture) Object.assign(entry, { url: await fetched(entry.picture), late_s: 0 });
    if (!clip && !entry.url) return entry.show?.();
    const dialog = byId("moment");
    const shown = clip ? el("video", { src: clip, controls: true, autoplay: true, muted: true, playsinline: true, "aria-label": entry.text }) : el("img", { src: entry.url, alt: `The picture when it was told: ${entry.text}` });
    setText(byId("moment-title"), entry.text);
    setText(byId("moment-about"), clip ? `Recorded around ${clock(entry.at * 1e6)}.` : entry.late_s ? `Taken ${seconds(entry.late_s)} after ${clock(entry.at * 1e6, { tenths: true })}.` : `Taken at ${clock(entry.at * 1e6)}.`);
    const more = byId("moment-more");
    more.hidden = !entry.show;
    more.onclick = () => {
      dialog.close();
      entry.show();
    };
    byId("moment-picture").replaceChildren(shown);
    dialog.addEventListener("close", () => clip && URL.revokeObjectURL(clip), { once: true });
    dialog.showModal();
  }

  #draw() {
    if (document.hidden || !this.node.isConnected) return;
    const now = Date.now();
    const age_s = (now - (this.#entries.at(-1)?.at ?? now)) / 1000;
    const shown_s = Math.min(STRIP_S.most, Math.max(STRIP_S.least, age_s));
    this.#strip.dataset.from = shown_s < 120 ? `${shown_s.toFixed(0)} s ago` : `${(shown_s / 60).toFixed(0)} min ago`;
    for (const { at, dot } of this.#entries) {
      const part = 1 - (now - at) / (1000 * shown_s);
      dot.hidden = part < 0;
      dot.style.left = `${(100 * Math.min(1, part)).toFixed(2)}%`;
    }
  }
}

// What the server has there, as an address of this page's; "" where it has it no more.
async function fetched(path) {
  try {
    return URL.createObjectURL(await (await server.request(path)).blob());
  } catch {
    return "";
  }
}
