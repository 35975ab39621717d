// Questions and answers of one session: streams the words in, tells how long they took and what
// they were based on. Asks again by itself when the connection broke before the answer came.

import { inWords } from "./api.js";
import { clock, el, milliseconds, newId, notice, plural, seconds, setText, words } from "./dom.js";

const MAX_MESSAGES = 200;
const MAX_QUESTION_BYTES = 4096; // the contract's limit
const ENDINGS = {
  FINISH_REASON_LENGTH: "cut off at the longest length",
  FINISH_REASON_CANCELLED: "cancelled",
  FINISH_REASON_ERROR: "ended by an error",
};
const RESTARTED = "The model moved to another worker. The answer begins anew.";
const NOT_KEPT = "not stored yet: the conversation store is away, and gets it when it is back";
const DEGRADED = {
  dialogue_unavailable: "answered without earlier rounds: the conversation store is away",
  speech_unavailable: "not spoken: the speech service is away",
  fallback_model: "answered by the fallback model: the model's own answers degenerate",
  answer_repeats: "doubtful: the model repeats itself",
  answer_empty: "the model gave an empty answer",
  answer_unsure: "doubtful: the model hardly knew what to say",
  answer_endless: "cut off: the model found no end",
};

export class Chat {
  #turns = new Map(); // turn id → round, of those that are on the page
  #said = new Map(); // turn id → the question that is being spoken
  #talk;
  #open = new Map(); // turn id → round whose answer has not ended; more than one only after cancels
  #turn = null; // the newest of them, while it is not cancelled
  #log;
  #chips = el("ul", { class: "chips", "aria-label": "Suggested questions" });
  #input;
  #cancel;

  constructor(connection, speech, voice, suggestions) {
    this.connection = connection;
    this.speech = speech;
    this.voice = voice;
    this.#log = el("div", { class: "log", role: "log", "aria-live": "polite", "aria-label": "Questions and answers", tabindex: "0" });
    this.#log.append(el("p", { class: "empty muted", text: "Ask what the model sees. It answers while the video goes on." }));
    this.#input = el("input", {
      id: "question",
      name: "question",
      autocomplete: "off",
      enterkeyhint: "send",
      placeholder: "Ask about the video",
      "aria-label": "Your question",
    });
    this.#cancel = el("button", { type: "button", class: "cancel", text: "Cancel", hidden: true, on: { click: () => this.cancel() } });
    this.#talk = el("button", { type: "button", class: "talk", text: "Hold to talk", "aria-pressed": "false", hidden: true });
    this.#holdable(this.#talk);
    const form = el("form", { class: "ask" }, this.#input, el("button", { class: "primary", text: "Ask" }), this.#talk, this.#cancel);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.ask(this.#input.value)) this.#input.value = "";
    });
    form.addEventListener("keydown", (event) => event.key === "Escape" && this.cancel());
    this.node = el(
      "div",
      { class: "room" },
      this.#log,
      el("div", { class: "bottom" }, this.#chips, form),
    );
    this.suggest(suggestions);
    this.#listen();
  }

  /** Offers these questions in the place of others. */
  suggest(questions) {
    const chips = questions.map((text) =>
      el("li", {}, el("button", { type: "button", class: "chip", text, on: { click: () => this.ask(text) } })),
    );
    this.#chips.replaceChildren(...chips);
    this.#chips.hidden = chips.length === 0;
  }

  /** Whether questions can be spoken. */
  set hears(hears) {
    this.#talk.hidden = !hears;
  }

  /** Asks; a question that is still being answered is cancelled, and its speech stops at once. */
  ask(text) {
    const question = text.trim();
    if (!question) return false;
    if (new TextEncoder().encode(question).length > MAX_QUESTION_BYTES) {
      notice(`A question may have at most ${MAX_QUESTION_BYTES} bytes.`, { for_ms: 8000 });
      return false;
    }
    this.cancel();
    const turn = this.#begin(newId("turn"), question, el("p", { class: "question", text: question }));
    if (this.connection.speech) this.speech.unlock();
    this.#send(turn);
    return true;
  }

  /** A round whose answer is awaited. `asked`: the question as it is shown. */
  #begin(id, question, asked) {
    const turn = { id, question, cancelled: false };
    turn.words = document.createTextNode("");
    turn.about = el("p", { class: "about muted small" });
    turn.node = el(
      "article",
      { class: "answer", "aria-busy": "true", data: { turn: turn.id, state: "asked" } },
      el("p", { class: "words" }, turn.words),
      turn.about,
    );
    this.#append(asked, turn.node);
    this.#turn = turn;
    this.#open.set(turn.id, turn);
    this.#turns.set(turn.id, turn);
    if (this.#turns.size > MAX_MESSAGES) this.#turns.delete(this.#turns.keys().next().value);
    if (this.connection.speech) this.speech.begin(turn.id);
    this.#buttons();
    return turn;
  }

  /** Ends the running answer and whatever is being spoken. */
  cancel() {
    this.speech.stop();
    const turn = this.#turn;
    if (!turn) return;
    this.#turn = null;
    turn.cancelled = true;
    turn.about.textContent = "cancelled";
    turn.node.dataset.state = "cancelled";
    turn.node.removeAttribute("aria-busy");
    this.#send(turn);
    this.#buttons();
  }

  #listen() {
    const on = (kind, handler) => this.connection.addEventListener(kind, (event) => handler(event.detail));
    on("started", ({ resumed }) => {
      for (const turn of this.#open.values()) {
        if (resumed !== "line") turn.words.data = ""; // the answer will come from its beginning
        this.#send(turn); // asking again with the same turn does not ask twice
      }
    });
    on("answer_started", ({ turn: id, restarted }) => {
      const turn = this.#open.get(id);
      if (!turn || turn.cancelled) return;
      turn.node.dataset.state = "answering";
      turn.words.data = "";
      turn.about.textContent = restarted ? RESTARTED : "";
      if (restarted && this.#turn === turn && this.connection.speech) this.speech.begin(id); // spoken anew, too
    });
    on("text_delta", ({ turn: id, text }) => {
      const turn = this.#open.get(id);
      if (!turn || turn.cancelled) return;
      turn.words.appendData(text ?? "");
      this.#follow();
    });
    on("transcript", (transcript) => this.#hear(transcript));
    on("playback", (playback) => this.#play(playback));
    on("audio_chunk", (chunk) => this.speech.play(chunk));
    on("answer_done", (done) => this.#done(done));
    on("error", ({ turn: id, watch, code, message, reason }) => {
      const turn = this.#open.get(id);
      if (turn && reason === "DRAINING" && !turn.cancelled) {
        turn.about.textContent = "The server is being replaced. The question is asked again in a moment.";
        return;
      }
      this.#said.get(id)?.remove();
      if (this.#said.delete(id)) notice(`Not understood: ${inWords({ code, message })}`, { for_ms: 8000 });
      const text = inWords({ code, message });
      if (turn) this.#end(turn, turn.cancelled ? "cancelled" : text);
      else if (!id && !watch) notice(text.replace("speech_unavailable", "Not spoken"), { for_ms: 10_000 });
    });
    this.connection.addEventListener("state", () => {
      for (const turn of this.#open.values()) {
        if (this.connection.state === "closed") this.#end(turn, "not answered: the session is gone");
        else if (this.connection.state === "lost" && !turn.cancelled) {
          turn.about.textContent = "The connection broke. The question is asked again when it is back.";
        }
      }
    });
    this.speech.addEventListener("change", () => this.#buttons());
    this.speech.addEventListener("played", ({ detail }) => this.#turns.has(detail.turn) && this.connection.send({ playback_ack: detail }));
    this.voice.addEventListener("change", () => {
      const held = this.voice.mode === "hold";
      this.#talk.setAttribute("aria-pressed", String(held));
      setText(this.#talk, !held ? "Hold to talk" : this.voice.open ? "Listening …" : "Opening …");
    });
  }

  // What is being said, while it is said; then it is a question that the server has asked.
  #hear({ turn: id, text = "", final = false }) {
    const asked = this.#said.get(id) ?? el("p", { class: "question", data: { state: "hearing" } });
    this.#said.set(id, asked);
    setText(asked, text);
    if (!final) {
      if (!asked.isConnected) this.#append(asked);
      return this.#follow();
    }
    this.#said.delete(id);
    asked.remove();
    delete asked.dataset.state;
    if (text && !this.#turns.has(id)) this.#begin(id, text, asked);
  }

  #play({ turn: id, action, heard = "" }) {
    if (action === "PLAYBACK_ACTION_PAUSE") this.speech.pause(id);
    else if (action === "PLAYBACK_ACTION_RESUME") this.speech.resume();
    else {
      if (this.speech.turn === id) this.speech.stop();
      const turn = this.#turns.get(id);
      if (turn) turn.node.append(el("p", { class: "cut muted small", text: heard ? `You interrupted it after: “${heard}”` : "You interrupted it." }));
    }
  }

  // Held by pointer, or by the keys that press a button.
  #holdable(button) {
    const press = () => this.connection.state === "open" && this.voice.mode !== "hold" && (this.speech.unlock(), this.voice.start(this.connection, "hold"));
    const release = () => this.voice.mode === "hold" && this.voice.stop();
    const isPress = ({ key }) => key === " " || key === "Enter";
    button.addEventListener("pointerdown", (event) => event.button === 0 && (button.setPointerCapture(event.pointerId), press()));
    for (const end of ["pointerup", "pointercancel", "blur"]) button.addEventListener(end, release);
    button.addEventListener("keydown", (event) => isPress(event) && (event.preventDefault(), event.repeat || press()));
    button.addEventListener("keyup", (event) => isPress(event) && (event.preventDefault(), release()));
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch
  }

  #send({ id, question, cancelled }) {
    this.connection.send(cancelled ? { cancel: { turn: id } } : { ask: { turn: id, text: question } });
  }

  #done(done) {
    const turn = this.#open.get(done.turn);
    if (!turn) return;
    if (done.text && !turn.cancelled) turn.words.data = done.text;
    if (done.kept === false) turn.node.append(el("p", { class: "degraded small", text: NOT_KEPT }));
    for (const flag of done.degraded ?? []) {
      turn.node.append(el("p", { class: "degraded small", text: DEGRADED[flag] ?? words(flag) }));
    }
    this.#end(turn, aboutAnswer(done), done.finish_reason === "FINISH_REASON_ERROR" ? "failed" : "done");
  }

  #end(turn, text, state = "failed") {
    turn.node.dataset.state = turn.cancelled ? "cancelled" : state;
    turn.node.removeAttribute("aria-busy");
    turn.about.textContent = text;
    this.#open.delete(turn.id);
    if (this.#turn === turn) this.#turn = null;
    this.#buttons();
    this.#follow();
  }

  #append(...nodes) {
    this.#log.querySelector(".empty")?.remove();
    this.#log.append(...nodes);
    while (this.#log.children.length > MAX_MESSAGES) this.#log.firstChild.remove();
    this.#follow(true);
  }

  // keeps the newest words in sight, unless the reader has scrolled up
  #follow(always = false) {
    const log = this.#log;
    if (always || log.scrollHeight - log.scrollTop - log.clientHeight < 120) log.scrollTop = log.scrollHeight;
  }

  #buttons() {
    const idle = !this.#turn && !this.speech.speaking;
    if (idle && document.activeElement === this.#cancel) this.#input.focus();
    this.#cancel.hidden = idle;
  }
}

/** "first word after 38 ms · whole answer 121 ms · saw 30 frames, the newest 0.1 s old: … · knew 2 earlier rounds" */
function aboutAnswer(done) {
  return [
    ENDINGS[done.finish_reason],
    done.resumed && "begun anew, for its worker was lost",
    done.first_token_ms && `first word after ${milliseconds(done.first_token_ms)}`,
    done.total_ms && `whole answer ${milliseconds(done.total_ms)}`,
    framesSeen(done),
    done.history_rounds && `knew ${plural(done.history_rounds, "earlier round")}`,
  ]
    .filter(Boolean)
    .join(" · ");
}

/** "saw 30 frames, the newest 0.1 s old: 10:03:08.2 to 10:03:12.0 (3.8 s)" */
function framesSeen({ frames_seen, newest_frame_age_ms, first_capture_ns, last_capture_ns }) {
  if (!frames_seen) return "";
  const age = newest_frame_age_ms ? `, the newest ${seconds(newest_frame_age_ms / 1000)} old` : "";
  const text = `saw ${plural(frames_seen, "frame")}${age}`;
  if (!first_capture_ns || !last_capture_ns) return text;
  const span = (Number(last_capture_ns) - Number(first_capture_ns)) / 1e9;
  return `${text}: ${clock(first_capture_ns, { tenths: true })} to ${clock(last_capture_ns, { tenths: true })} (${seconds(span)})`;
}
