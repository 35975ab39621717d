// One question and its answer, which is written word by word. It is asked again by itself when the
// connection broke, or the model went away, before the answer was there.
//
// Fires "change" whenever there is more of it or it waits for something, and "end" once.

import { SightlineError } from "./errors.js";
import { newId } from "./ids.js";
import { stream } from "./stream.js";

const AGAIN_MS = 60_000; // for so long it is asked again while the model is away
const PAUSE_S = 2;

export class Answer extends EventTarget {
  #connection;
  #since = Date.now();
  #again = 0;

  /** `wishes`: fields of the contract's Question. `asks`: false where the server asks by itself. */
  constructor(connection, question, { turn = newId("turn"), ...wishes } = {}, asks = true) {
    super();
    this.#connection = connection;
    this.turn = turn;
    this.question = question;
    this.wishes = wishes;
    this.text = "";
    this.state = "asked"; // "answering", then "done", "failed" or "cancelled"
    this.waits = ""; // for what: "connection", "server" or "model"
    this.restarted = false; // its text began anew
    this.done = null; // the contract's AnswerDone, once it has ended
    this.error = null; // a SightlineError, where it has failed
    this.mark = connection.line.sequence; // the newest event that came before all of it
    if (asks) this.send();
  }

  get ended() {
    return ["done", "failed"].includes(this.state) || (this.state === "cancelled" && this.done !== null);
  }

  /** Ends it with what was said until now. */
  cancel() {
    if (this.state !== "asked" && this.state !== "answering") return;
    this.state = "cancelled";
    this.waits = "";
    this.send();
    this.#change();
  }

  /** Waits for the end: the contract's AnswerDone. Throws a SightlineError where there will be none. */
  async result() {
    if (!this.ended) await new Promise((resolve) => this.addEventListener("end", resolve, { once: true }));
    if (this.error) throw this.error;
    return this.done;
  }

  /**
   * Pieces of the text as they come. Of an answer that began anew only what goes beyond the old text;
   * where the new one differs it follows whole, on a line of its own.
   */
  async *[Symbol.asyncIterator]() {
    let given = "";
    for await (const text of stream((put, end) => this.#follow(put, end))) {
      const fresh = this.#beyond(given, text);
      if (fresh === null) continue;
      given = text;
      if (fresh) yield fresh;
    }
  }

  #beyond(given, text) {
    if (text.startsWith(given)) return text.slice(given.length);
    if (!this.ended && given.startsWith(text)) return null; // the old text, said again
    return `\n${text}`;
  }

  #follow(put, end) {
    const change = () => put(this.text);
    const ended = () => {
      put(this.text);
      end(this.error);
    };
    change();
    if (this.ended) ended();
    this.addEventListener("change", change);
    this.addEventListener("end", ended);
    return () => {
      this.removeEventListener("change", change);
      this.removeEventListener("end", ended);
    };
  }

  // --- fed by the connection ----------------------------------------------------------------

  /** Asks, or cancels. Asking again with the same turn does not ask twice. */
  send() {
    const { turn, question, wishes } = this;
    this.#connection.send(this.state === "cancelled" ? { cancel: { turn } } : { ask: { turn, text: question, ...wishes } });
  }

  /** There is a connection again; `whole`: nothing was missed. */
  connected(whole) {
    if (!whole) this.text = ""; // it comes from its beginning
    this.#since = Date.now();
    this.waits = "";
    this.send();
    this.#change();
  }

  started({ restarted = false }) {
    if (this.state === "cancelled") return;
    this.state = "answering";
    this.waits = "";
    this.text = "";
    this.restarted = restarted;
    this.#change();
  }

  add(text) {
    if (this.state === "cancelled") return;
    this.text += text;
    this.waits = "";
    this.#change();
  }

  /** Nothing comes for now. */
  wait(what) {
    if (this.state === "cancelled" || this.waits === what) return;
    this.waits = what;
    this.#change();
  }

  finish(done) {
    this.done = done;
    const cancelled = this.state === "cancelled";
    if (done.text && !cancelled) this.text = done.text;
    if (!cancelled) this.state = done.finish_reason === "FINISH_REASON_ERROR" ? "failed" : "done";
    if (this.state === "failed") this.error = new SightlineError("The answer broke off.", { code: "INTERNAL", turn: this.turn });
    this.#end();
  }

  /** An error about it; where that passes it is asked again. */
  refuse(event) {
    if (this.state === "cancelled") return this.finish({ turn: this.turn, text: this.text, finish_reason: "FINISH_REASON_CANCELLED" });
    if (event.reason === "DRAINING") return this.wait("server");
    if (event.code === "UNAVAILABLE" && Date.now() - this.#since < AGAIN_MS) {
      this.wait("model");
      clearTimeout(this.#again);
      this.#again = setTimeout(() => this.ended || this.send(), 1000 * (event.retry_after_s ?? PAUSE_S));
      return;
    }
    this.fail(SightlineError.of(event));
  }

  fail(error) {
    if (this.ended) return;
    if (this.state === "cancelled") return this.finish({ turn: this.turn, text: this.text, finish_reason: "FINISH_REASON_CANCELLED" });
    this.state = "failed";
    this.error = error;
    this.#end();
  }

  #end() {
    clearTimeout(this.#again);
    this.waits = "";
    this.dispatchEvent(new Event("end"));
  }

  #change() {
    this.dispatchEvent(new Event("change"));
  }
}
