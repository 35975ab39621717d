// A viewer's connection to one session: a WebSocket that comes back by itself, with the answers and
// watches that are open on it. It carries ClientEvent JSON out and ServerEvent JSON in, and asks for
// missed events after a break (resume_handle, last_sequence).
//
// Fires, as CustomEvents with the message as detail: "started", one per kind of server event
// ("text_delta", "answer_done", …), and "state" whenever `state` changes.

import { Answer } from "./answer.js";
import { SightlineError } from "./errors.js";
import { stream } from "./stream.js";
import { Watch } from "./watch.js";

const FIRST_RETRY_MS = 300;
const LAST_RETRY_MS = 5000;
const SILENCE_MS = 10_000; // the server sends a session_state every second
const CHECK_MS = 2000;

const WHY_CLOSED = {
  "": () => new SightlineError("The connection was closed.", { code: "CANCELLED" }),
  gone: () => new SightlineError("The session is gone.", { code: "NOT_FOUND" }),
  away: () => new SightlineError("The server cannot be reached.", { code: "UNAVAILABLE" }),
};

export class Connection extends EventTarget {
  #socket = null;
  #started = false;
  #attempts = 0;
  #retry = 0;
  #watchdog = 0;
  #heard = 0;
  #handle = "";
  #sequence = 0;
  #client;
  #error = null; // of what was open when it was closed
  #answers = new Map(); // turn → Answer, until it has ended
  #watches = new Map(); // id → Watch, until it has ended
  #since = 0; // when it was open last, or begun
  #patience_ms;

  /**
   * `state`: "connecting", "open", "lost" (until `retryAt`, in ms) or "closed" (`reason` says why: "gone",
   * "refused", "away" or "" where it was closed here). Without a connection for `patience_s` it is closed.
   */
  constructor(client, session, { speech = false, line = null, conversation = "", patience_s = Infinity } = {}) {
    super();
    this.#client = client;
    this.#patience_ms = 1000 * patience_s;
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
    this.#since = performance.now();
    this.#watchdog = setInterval(() => this.#listen(), CHECK_MS);
    globalThis.addEventListener?.("online", this.retry); // Node has none
    this.#connect();
  }

  close(reason = "", error = WHY_CLOSED[reason]()) {
    clearTimeout(this.#retry);
    clearInterval(this.#watchdog);
    globalThis.removeEventListener?.("online", this.retry);
    this.reason = reason;
    this.#error = error;
    this.#drop();
    this.#become("closed");
    for (const answer of this.#answers.values()) answer.fail(error);
    for (const watch of this.#watches.values()) watch.end(reason ? error : null);
  }

  /** Asks what the session sees, with what was said before. `wishes`: of the contract's Question. */
  ask(question, wishes = {}) {
    return this.#open(new Answer(this, question, wishes));
  }

  /** An answer that comes without asking: the server asks what it heard. */
  expect(turn, question) {
    return this.#open(new Answer(this, question, { turn }, false));
  }

  /** Tells whenever a condition begins or ceases to hold. */
  watch(condition, timing = {}) {
    const watch = new Watch(this, condition, timing);
    this.#watches.set(watch.id, watch);
    watch.addEventListener("end", () => this.#watches.delete(watch.id), { once: true });
    if (this.state === "closed") queueMicrotask(() => watch.end(this.#error));
    return watch;
  }

  /** All that the server tells from here on: `{kind, …}`, until it is closed. */
  events() {
    return stream((put, end) => {
      const told = ({ detail: [kind, message] }) => put({ kind, ...message });
      const closed = () => this.state === "closed" && end(this.reason ? this.#error : null);
      this.addEventListener("told", told);
      this.addEventListener("state", closed);
      closed();
      return () => {
        this.removeEventListener("told", told);
        this.removeEventListener("state", closed);
      };
    });
  }

  #open(answer) {
    this.#answers.set(answer.turn, answer);
    answer.addEventListener("end", () => this.#answers.delete(answer.turn), { once: true });
    if (this.away && this.#since > 0) answer.waits = "connection"; // not before it was opened
    if (this.state === "closed") queueMicrotask(() => answer.fail(this.#error));
    return answer;
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
    if (performance.now() - this.#since > this.#patience_ms) return this.close("away");
    const socket = this.#client.socket(this.session);
    this.#socket = socket;
    this.#heard = performance.now();
    socket.onopen = () => socket.send(JSON.stringify({ start: this.#start() }));
    socket.onmessage = (message) => this.#receive(JSON.parse(message.data));
    socket.onclose = socket.onerror = () => this.#lost(); // not every one says both
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
      this.#since = performance.now();
      this.#become("open");
    } else if (sequence) {
      if (sequence <= this.#sequence) return; // came before the break already
      this.#sequence = sequence;
    }
    if (kind === undefined) return;
    this.#tell(kind, event[kind]);
    this.dispatchEvent(new CustomEvent(kind, { detail: event[kind] }));
    this.dispatchEvent(new CustomEvent("told", { detail: [kind, event[kind]] }));
    if (kind === "go_away") this.#lost(Number(event.go_away.reconnect_within_s ?? 1) * 1000 * Math.random());
    if (kind === "error" && !event.error.turn && !event.error.watch && event.error.code === "NOT_FOUND") {
      this.close("gone");
    }
  }

  /** Hands an event on to the answer or the watch that it is about. */
  #tell(kind, message) {
    const answer = this.#answers.get(message.turn);
    const watch = this.#watches.get(message.watch);
    if (kind === "started") {
      const whole = message.resumed === "line";
      for (const each of [...this.#answers.values(), ...this.#watches.values()]) each.connected(whole);
    } else if (kind === "session_state") {
      const away = message.stats?.degraded?.includes("worker_unavailable");
      for (const each of this.#answers.values()) if (away && each.state === "asked") each.wait("model");
    } else if (kind === "answer_started") answer?.started(message);
    else if (kind === "text_delta") answer?.add(message.text ?? "");
    else if (kind === "answer_done") answer?.finish(message);
    else if (kind === "watch_event") watch?.fire(message);
    else if (kind === "watch_status") watch?.told(message);
    else if (kind === "error") (answer ?? watch)?.refuse(message);
  }

  async #lost(pause_ms) {
    if (this.state === "closed") return;
    this.#drop();
    const pause = pause_ms ?? Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#attempts) * (0.5 + Math.random() / 2);
    this.#attempts += 1;
    this.retryAt = Date.now() + pause;
    this.#become("lost");
    for (const answer of this.#answers.values()) answer.wait("connection");
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#connect(), pause);
    if (this.#attempts < 2) return;
    // a browser does not say why a WebSocket was refused; the session itself tells
    const error = await this.#client.session(this.session).then(() => null, (refused) => refused);
    if (error?.status === 404) this.close("gone");
    else if ([401, 403].includes(error?.status) && !this.#client.asksForToken) this.close("refused", error);
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#started = false;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
    socket.close();
  }

  #listen() {
    const now = performance.now();
    if (this.state === "open") this.#since = this.#heard;
    if (this.#socket && now - this.#heard > SILENCE_MS) this.#lost(0);
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
