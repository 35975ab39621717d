// A viewer's connection to one session: a WebSocket that comes back by itself. It carries
// ClientEvent JSON out and ServerEvent JSON in, and asks for missed events after a break
// (resume_handle, last_sequence).
//
// Fires, as CustomEvents with the message as detail: "started", one per kind of server event
// ("text_delta", "answer_done", …), and "state" whenever `state` changes.

import { converse, getSession } from "./api.js";

const FIRST_RETRY_MS = 300;
const LAST_RETRY_MS = 5000;
const SILENCE_MS = 10_000; // the server sends a session_state every second
const CHECK_MS = 2000;

export class Connection extends EventTarget {
  #socket = null;
  #started = false;
  #attempts = 0;
  #retry = 0;
  #watchdog = 0;
  #heard = 0;
  #handle = "";
  #sequence = 0;

  /** `state`: "connecting", "open", "lost" (until `retryAt`, in ms) or "closed" (`reason` says why). */
  constructor(session, { speech = false, line = null, conversation = "" } = {}) {
    super();
    this.session = session;
    this.speech = speech;
    this.conversation = conversation;
    if (line) [this.#handle, this.#sequence] = [line.handle, line.sequence];
    this.state = "connecting";
    this.retryAt = 0;
    this.reason = "";
  }

  /** What a reload of the page needs to go on with the line: its handle and the newest event here. */
  get line() {
    return { handle: this.#handle, sequence: this.#sequence };
  }

  /** Goes on with a new conversation. */
  startOver() {
    this.conversation = this.#handle = "";
    this.#sequence = 0;
    this.#connect();
  }

  /** Whether it was open and is not now: what is known of the session is old. */
  get away() {
    return this.#handle !== "" && this.state !== "open" && this.state !== "closed";
  }

  open() {
    this.#watchdog = setInterval(() => this.#listen(), CHECK_MS);
    addEventListener("online", this.retry);
    this.#connect();
  }

  close(reason = "") {
    clearTimeout(this.#retry);
    clearInterval(this.#watchdog);
    removeEventListener("online", this.retry);
    this.reason = reason;
    this.#drop();
    this.#become("closed");
  }

  /** Sends an event if the connection is open. A false return means: send it again after "started". */
  send(event) {
    if (!this.#started) return false;
    this.#socket.send(JSON.stringify(event));
    return true;
  }

  /** Tries again now instead of after the pause. */
  retry = () => {
    if (this.state === "lost") this.#connect();
  };

  /** Speech is chosen at the start, so a change of it takes a new start of the same conversation. */
  setSpeech(speech) {
    if (this.speech === speech) return;
    this.speech = speech;
    if (this.state === "open" || this.state === "connecting") this.#connect();
  }

  #connect() {
    clearTimeout(this.#retry);
    this.#drop();
    this.#become("connecting");
    const socket = converse(this.session);
    this.#socket = socket;
    this.#heard = performance.now();
    socket.onopen = () => socket.send(JSON.stringify({ start: this.#start() }));
    socket.onmessage = (message) => this.#receive(JSON.parse(message.data));
    socket.onclose = () => this.#lost();
  }

  #start() {
    const start = { session: this.session, conversation: this.conversation, speech: this.speech };
    if (this.#handle) Object.assign(start, { resume_handle: this.#handle, last_sequence: String(this.#sequence) });
    return start;
  }

  #receive(event) {
    this.#heard = performance.now();
    const sequence = Number(event.sequence ?? 0);
    const kind = Object.keys(event).find((key) => key !== "sequence");
    if (kind === "started") {
      const { conversation, resume_handle } = event.started;
      this.#sequence = sequence; // what was missed comes after it, with new numbers
      this.conversation = conversation ?? "";
      this.#handle = resume_handle ?? "";
      this.#started = true;
      this.#attempts = 0;
      this.#become("open");
    } else if (sequence) {
      if (sequence <= this.#sequence) return; // came before the break already
      this.#sequence = sequence;
    }
    if (kind === undefined) return;
    this.dispatchEvent(new CustomEvent(kind, { detail: event[kind] }));
    if (kind === "go_away") this.#lost(Number(event.go_away.reconnect_within_s ?? 1) * 1000 * Math.random());
    if (kind === "error" && !event.error.turn && !event.error.watch && event.error.code === "NOT_FOUND") {
      this.close("gone");
    }
  }

  async #lost(pause_ms) {
    if (this.state === "closed") return;
    this.#drop();
    const pause = pause_ms ?? Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#attempts) * (0.5 + Math.random() / 2);
    this.#attempts += 1;
    this.retryAt = Date.now() + pause;
    this.#become("lost");
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#connect(), pause);
    if (this.#attempts < 2) return;
    // a browser does not say why a WebSocket was refused; the session itself tells
    const gone = await getSession(this.session).then(() => false, (error) => error.status === 404);
    if (gone) this.close("gone");
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#started = false;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #listen() {
    if (this.#socket && performance.now() - this.#heard > SILENCE_MS) this.#lost(0);
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
