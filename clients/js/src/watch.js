// A standing question: it tells whenever its answer changes, until it is removed.
//
// Fires "event" with the contract's WatchEvent as detail, "change" when it is told how it stands or
// begins anew, and "end" once.

import { SightlineError } from "./errors.js";
import { newId } from "./ids.js";
import { stream } from "./stream.js";

export class Watch extends EventTarget {
  #connection;

  /** `timing`: `interval_s`, `debounce_s`, `cooldown_s` of the contract's Watch. */
  constructor(connection, condition, { watch = newId("watch"), ...timing } = {}) {
    super();
    this.#connection = connection;
    this.id = watch;
    this.condition = condition;
    this.timing = timing;
    this.active = null; // whether it holds; null until that is known
    this.status = null; // the contract's WatchStatus, of its last check that was told
    this.ended = false;
    this.error = null; // why the server ended it
    this.send();
  }

  /** What the server is asked. */
  get request() {
    return { watch: this.id, condition: this.condition, ...this.timing };
  }

  /** Ends it. */
  remove() {
    if (this.ended) return;
    this.#connection.send({ unwatch: { watch: this.id } });
    this.end();
  }

  /** Its events as they come. Throws a SightlineError where the server ends it. */
  [Symbol.asyncIterator]() {
    return stream((put, end) => {
      const event = ({ detail }) => put(detail);
      const ended = () => end(this.error);
      this.addEventListener("event", event);
      this.addEventListener("end", ended);
      if (this.ended) ended();
      return () => {
        this.removeEventListener("event", event);
        this.removeEventListener("end", ended);
        this.remove();
      };
    });
  }

  // --- fed by the connection ----------------------------------------------------------------

  send() {
    this.#connection.send({ watch: this.request }); // one that is set already stays as it is
  }

  /** There is a connection again; `whole`: nothing was missed. */
  connected(whole) {
    this.send();
    if (whole) return;
    this.active = null; // it begins anew, and is told again where it holds
    this.dispatchEvent(new Event("change"));
  }

  fire(event) {
    this.active = event.active ?? false;
    this.dispatchEvent(new CustomEvent("event", { detail: event }));
  }

  told(status) {
    this.status = status;
    this.active = status.active ?? false;
    this.dispatchEvent(new Event("change"));
  }

  refuse(event) {
    this.end(SightlineError.of(event));
  }

  /** It is over. */
  end(error = null) {
    if (this.ended) return;
    this.ended = true;
    this.error = error;
    this.dispatchEvent(new Event("end"));
  }
}
