// What a microphone says over a connection that may break: kept until it is a question, and said again
// when the connection is back. The server knows the pieces that it has heard before the break.

const MOST_KEPT = 480; // pieces, 24 s: the longest turn, and less than the server takes at once
const KEPT_MS = 60_000; // what is older is not asked any more
const BEFORE_WORDS = 8; // pieces of a silence that has ended a turn, in which another may have begun

export class Spoken {
  #connection;
  #kept = []; // {event, at}, the oldest first
  #num_pieces = 0;

  constructor(connection) {
    this.#connection = connection;
    connection.addEventListener("started", () => this.#again());
    connection.addEventListener("transcript", ({ detail }) => detail.final && this.#settle());
    connection.addEventListener("error", ({ detail }) => detail.turn?.startsWith("voice-") && this.#settle());
  }

  /** How it is heard from here on. `begins`: the microphone was opened. */
  listen(mode, begins = false) {
    if (this.#num_pieces === 0 || (begins && this.#connection.state === "open")) this.#forget();
    this.#say({ listen: { mode } });
  }

  hear(audio_chunk) {
    this.#num_pieces += 1;
    this.#say({ audio_chunk });
    if (this.#num_pieces > MOST_KEPT) this.#drop(1);
  }

  #say(event) {
    this.#kept.push({ event, at: performance.now() });
    this.#connection.send(event);
  }

  #again() {
    const since = performance.now() - KEPT_MS;
    this.#drop(this.#kept.filter(({ event, at }) => event.audio_chunk && at < since).length);
    for (const { event } of this.#kept) this.#connection.send(event);
  }

  #forget() {
    this.#kept = [];
    this.#num_pieces = 0;
  }

  // The words of a turn are known: what was said before how it is heard now was changed, or else up to
  // here, needs no saying again.
  #settle() {
    const last = this.#kept.findLastIndex(({ event }) => event.listen);
    if (last > 0) this.#kept.splice(0, last);
    this.#num_pieces = this.#kept.filter(({ event }) => event.audio_chunk).length;
    if (last <= 0) this.#drop(this.#num_pieces - BEFORE_WORDS);
  }

  #drop(count) {
    for (; count > 0; count -= 1) {
      this.#kept.splice(this.#kept.findIndex(({ event }) => event.audio_chunk), 1);
      this.#num_pieces -= 1;
    }
  }
}
