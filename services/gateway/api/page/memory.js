// What the browser remembers of a session, so that a reloaded page goes on: the id of the conversation,
// questions whose answers are awaited, and watches. What was said is the server's to keep.
//
// A tab's line (its handle and the newest event it has) is kept only from the moment it is left until
// it is back, so that no two tabs go on with the same one.

const PREFIX = "sightline:session:";
const MAX_SESSIONS = 50;

export class Memory {
  #key;
  #kept;

  constructor(session) {
    this.#key = PREFIX + session;
    this.#kept = { conversation: "", said: false, instructions: "", asked: [], watches: [], ...read("localStorage", this.#key) };
  }

  get conversation() {
    return this.#kept.conversation;
  }

  set conversation(id) {
    if (this.#kept.conversation !== id) this.#keep({ conversation: id, said: false });
  }

  /** Whether the server may know of anything that was said: it knows no conversation without that. */
  get said() {
    return this.#kept.said || this.#kept.asked.length > 0;
  }

  /** How answers are to be given. */
  get instructions() {
    return this.#kept.instructions;
  }

  set instructions(text) {
    this.#keep({ instructions: text });
  }

  /** Questions whose answers are awaited: [{turn, question, instructions}]. */
  get asked() {
    return this.#kept.asked;
  }

  /** Watches that are set: [{request, last}], `last` as the event that came last. */
  get watches() {
    return this.#kept.watches;
  }

  ask(turn, question, instructions) {
    if (this.#kept.asked.some((each) => each.turn === turn)) return;
    this.#keep({ asked: [...this.#kept.asked, { turn, question, instructions }] });
  }

  answered(turn) {
    if (!this.#kept.said) this.#keep({ said: true });
    if (this.#kept.asked.some((each) => each.turn === turn)) this.#keep({ asked: this.#kept.asked.filter((each) => each.turn !== turn) });
  }

  watch(request, last = null) {
    const others = this.#kept.watches.filter((each) => each.request.watch !== request.watch);
    this.#keep({ watches: [...others, { request, last }] });
  }

  unwatch(id) {
    this.#keep({ watches: this.#kept.watches.filter(({ request }) => request.watch !== id) });
  }

  /** Nothing of the session is left. */
  forget() {
    this.#kept = { conversation: "", said: false, instructions: "", asked: [], watches: [] };
    drop("localStorage", this.#key);
    drop("sessionStorage", this.#key);
  }

  /** The line of this tab before it was reloaded, or null; from here on nobody else has it. */
  takeLine() {
    const line = read("sessionStorage", this.#key);
    drop("sessionStorage", this.#key);
    return line?.handle ? line : null;
  }

  leaveLine(line) {
    if (line.handle) write("sessionStorage", this.#key, { ...line, at: Date.now() });
  }

  #keep(changed) {
    Object.assign(this.#kept, changed, { at: Date.now() });
    write("localStorage", this.#key, this.#kept);
  }
}

// A browser may forbid storage or have no room: then a reload begins anew.
function read(storage, key) {
  try {
    return JSON.parse(globalThis[storage].getItem(key));
  } catch {
    return null;
  }
}

function write(storage, key, value) {
  try {
    globalThis[storage].setItem(key, JSON.stringify(value));
    const keys = Object.keys(globalThis[storage]).filter((each) => each.startsWith(PREFIX));
    if (keys.length <= MAX_SESSIONS) return;
    const age = (each) => read(storage, each)?.at ?? 0;
    drop(storage, keys.reduce((oldest, each) => (age(each) < age(oldest) ? each : oldest)));
  } catch {
    // nothing is kept
  }
}

function drop(storage, key) {
  try {
    globalThis[storage].removeItem(key);
  } catch {
    // nothing was kept
  }
}
