// The list of sessions and the dialog that makes a new one.

import { byId, copyFrom, el, setText } from "./dom.js";
import { server } from "./server.js";

export const STATES = {
  SESSION_STATE_WAITING: ["waiting", "waiting for video"],
  SESSION_STATE_LIVE: ["live", "live"],
  SESSION_STATE_STALLED: ["stalled", "publisher left"],
  SESSION_STATE_ENDED: ["ended", "ended"],
};
/** What is wrong with pictures, in a word. */
export const CONDITIONS = {
  SOURCE_CONDITION_DARK: "dark",
  SOURCE_CONDITION_COVERED: "covered",
  SOURCE_CONDITION_FROZEN: "frozen",
  SOURCE_CONDITION_REPEATING: "repeating",
};
const KINDS = { file: "file", rtmp: "RTMP", whip: "WebRTC", srt: "SRT", push: "pushed frames" };

/** Whether there is no worker that it could be on. */
export const waits = (session) => session.stats?.degraded?.includes("worker_unavailable") === true;
/** [a word for styling, words for people] */
export const stateOf = (session) => {
  if (session.moving) return ["moving", waits(session) ? "waits for the model" : "moving to another worker"];
  const unwell = session.state === "SESSION_STATE_LIVE" && CONDITIONS[session.source_health?.condition];
  return unwell ? ["unwell", unwell] : (STATES[session.state] ?? ["none", "unknown"]);
};
export const nameOf = (session) => session.name || session.id;
export const kindOf = (session) => KINDS[session.source_kind] ?? session.source_kind ?? "";

export class SessionList {
  #rows = new Map();

  constructor({ onChoose, onRemove }) {
    this.list = byId("session-list");
    this.onChoose = onChoose;
    this.onRemove = onRemove;
  }

  /** Brings the list up to date in place: focus and scroll stay where they are. */
  show(sessions, chosen) {
    byId("session-hint").hidden = sessions.length > 0;
    for (const [id, row] of this.#rows) {
      if (sessions.some((session) => session.id === id)) continue;
      row.node.remove();
      this.#rows.delete(id);
    }
    sessions.forEach((session, index) => {
      const row = this.#rows.get(session.id) ?? this.#add(session);
      if (this.list.children[index] !== row.node) this.list.insertBefore(row.node, this.list.children[index] ?? null);
      this.#fill(row, session, chosen);
    });
  }

  #add(session) {
    const row = { name: el("span", { class: "name" }), facts: el("span", { class: "facts muted small" }), dot: el("span", { class: "dot", "aria-hidden": "true" }) };
    row.choose = el("button", { type: "button", class: "choose", on: { click: () => this.onChoose(session.id) } }, row.dot, row.name, row.facts);
    row.remove = el("button", { type: "button", class: "quiet remove", text: "×", on: { click: () => this.onRemove(session.id) } });
    row.node = el("li", { data: { session: session.id } }, row.choose, row.remove);
    this.#rows.set(session.id, row);
    return row;
  }

  #fill(row, session, chosen) {
    const [style, state] = stateOf(session);
    const fps = session.stats?.fps_in ?? 0;
    const facts = [state, kindOf(session), style === "live" || style === "unwell" ? `${fps.toFixed(1)} fps` : ""];
    row.dot.dataset.state = style;
    setText(row.name, nameOf(session));
    setText(row.facts, facts.filter(Boolean).join(" · "));
    row.remove.setAttribute("aria-label", `Remove ${nameOf(session)}`);
    if (session.id !== chosen) row.choose.removeAttribute("aria-current");
    else if (!row.choose.hasAttribute("aria-current")) {
      row.choose.setAttribute("aria-current", "true");
      this.list.scrollLeft = row.node.offsetLeft - this.list.offsetLeft; // on phones the list is one line
    }
  }
}

export class NewSession {
  /** models: those of the server, as it tells them now */
  constructor({ onCreated, models }) {
    this.dialog = byId("new-dialog");
    this.form = byId("new-form");
    this.addresses = byId("new-addresses");
    this.error = byId("new-error");
    this.onCreated = onCreated;
    this.models = models;
    this.form.addEventListener("change", () => this.#kind());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#create();
    });
    this.form.querySelector("[data-close]").addEventListener("click", () => this.dialog.close());
  }

  open() {
    this.form.hidden = false;
    this.addresses.hidden = true;
    this.addresses.replaceChildren(); // a key is shown once
    setText(this.error, "");
    this.#kind();
    this.#offerModels();
    this.dialog.showModal();
  }

  #offerModels() {
    const offered = this.models()
      .filter(({ ready }) => ready)
      .flatMap(({ name, pools = [] }) => (pools.length > 0 ? pools.map((pool) => [pool.name, `${pool.name} (${name})`]) : [[name, name]]));
    byId("new-models").hidden = offered.length < 2;
    byId("new-model").replaceChildren(el("option", { value: "", text: "the server chooses" }), ...offered.map(([value, text]) => el("option", { value, text })));
    const hard = [["", "as the server is set"], ["NEVER", "answered by the model that watches"]];
    for (const [mode, when] of [["UNSURE", "where that is unsure"], ["ALWAYS", "always"]]) hard.push(...offered.map(([value, text]) => [`${mode} ${value}`, `${text}, ${when}`]));
    byId("new-delegate").replaceChildren(...hard.map(([value, text]) => el("option", { value, text })));
  }

  #kind() {
    const push = this.form.elements.kind.value === "push";
    this.form.querySelector("[data-kind=source]").hidden = push;
    setText(byId("new-create"), push ? "Make an address" : "Start watching");
  }

  async #create() {
    const { kind, source, loop, name, model, delegate } = this.form.elements;
    const push = kind.value === "push";
    const options = { name: name.value.trim(), loop: !push && loop.checked };
    const [mode, to] = delegate.value.split(/ (.*)/);
    if (mode) Object.assign(options, { delegate: `DELEGATE_MODE_${mode}`, delegate_to: to ?? "" });
    const create = byId("new-create");
    setText(this.error, "");
    if (!push && !source.value.trim()) {
      setText(this.error, "Where is the video? Give a path or an address.");
      return source.focus();
    }
    create.disabled = true;
    try {
      const session = await server.create({ ...(push ? { push: {} } : { source: source.value.trim() }), options, model: model.value });
      this.onCreated(session);
      name.value = "";
      if (push) this.#show(session);
      else this.dialog.close();
    } catch (error) {
      setText(this.error, error.message);
    } finally {
      create.disabled = false;
    }
  }

  // OBS wants the server and the key apart; ffmpeg wants one address
  #show(session) {
    const url = session.rtmp_url ?? "";
    const server = url.slice(0, url.lastIndexOf("/"));
    const ffmpeg = `ffmpeg -re -i clip.mp4 -c:v libx264 -tune zerolatency -pix_fmt yuv420p -f flv ${url}`;
    const rows = [
      ["RTMP server (OBS: Server)", server],
      ["Key (OBS: Stream Key)", session.key ?? ""],
      ["WHIP address (WebRTC)", session.whip_url ?? ""],
      ["SRT address", session.srt_url ?? ""],
      ["With ffmpeg", ffmpeg],
    ].filter(([, value]) => value);
    this.addresses.replaceChildren(
      el("h2", { text: `Publish to ${nameOf(session)}` }),
      el("p", { class: "muted small", text: "Whoever has the key can publish. It is shown only now." }),
      ...rows.map(([label, value]) => address(label, value)),
      el("div", { class: "row end" }, el("button", { type: "button", class: "primary", text: "Done", on: { click: () => this.dialog.close() } })),
    );
    this.form.hidden = true;
    this.addresses.hidden = false;
    this.addresses.querySelector("button").focus();
  }
}

function address(label, value) {
  const input = el("input", { readonly: true, value, spellcheck: "false" });
  const button = el("button", { type: "button", text: "Copy", "aria-label": `Copy: ${label}` });
  button.addEventListener("click", () => copyFrom(button, value));
  return el("label", { class: "address" }, el("span", { text: label }), el("span", { class: "row" }, input, button));
}
