// Questions and answers of one session: streams the words in, tells how long they took and what
// they were based on, and what an answer waits for. After a reload it shows what the server has kept,
// and awaits what was asked.

import { aboutAnswer, answeredBy, degradation } from "./about.js";
import { holdable, inWords } from "./client/index.js";
import { clock, el, notice, reveal, setText } from "./dom.js";
import { Instructions } from "./instructions.js";
import { server } from "./server.js";
import { Verdict } from "./verdict.js";

const MAX_MESSAGES = 200;
const MAX_QUESTION_BYTES = 4096; // the contract's limit
const WAITS = {
  connection: "The connection broke. The question is asked again when it is back.",
  server: "The server is being replaced. The question is asked again in a moment.",
  model: "The model is restarting; your question will be answered.",
};
const RESTARTED = "The model moved to another worker. The answer begins anew.";
const NOT_KEPT = "not stored yet: the conversation store is away, and gets it when it is back";
const GONE = "not answered: the session is gone";

export class Chat {
  #turns = new Map(); // turn id → round, of those that are on the page
  #said = new Map(); // turn id → the question that is being spoken
  #talk;
  #open = new Map(); // turn id → round whose answer has not ended; more than one only after cancels
  #turn = null; // the newest of them, while it is not cancelled
  #log;
  #earlier = el("div", { class: "earlier" });
  #chips = el("ul", { class: "chips", "aria-label": "Suggested questions" });
  #input;
  #cancel;

  constructor(connection, memory, speech, voice, suggestions) {
    this.connection = connection;
    this.memory = memory;
    this.speech = speech;
    this.voice = voice;
    this.#log = el("div", { class: "log", role: "log", "aria-live": "polite", "aria-label": "Questions and answers", tabindex: "0" });
    this.#log.append(this.#earlier, el("p", { class: "empty muted", text: "Ask what the model sees. It answers while the video goes on." }));
    this.#input = el("input", {
      id: "question",
      name: "question",
      autocomplete: "off",
      enterkeyhint: "send",
      placeholder: "Ask about the video",
      "aria-label": "Your question",
    });
    this.instructions = new Instructions(memory);
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
      el("div", { class: "bottom" }, this.#chips, this.instructions.node, form),
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
      notice(`That question is too long: it may have about ${MAX_QUESTION_BYTES} letters.`, { for_ms: 8000 });
      return false;
    }
    this.cancel();
    if (this.connection.speech) this.speech.unlock();
    const instructions = this.instructions.value;
    this.#begin(this.connection.ask(question, { instructions }), el("p", { class: "question", text: question }), instructions);
    return true;
  }

  /** Shows what was said before the page was loaded, and awaits what was being answered. */
  restore(rounds, asked) {
    this.#earlier.replaceChildren();
    for (const { turn: id, question, answer = "", asked_ns, interrupted = false, rating = "", better } of rounds) {
      if (this.#turns.has(id)) continue;
      const turn = this.#round(id, question);
      turn.words.data = answer;
      turn.about.textContent = [asked_ns && `asked at ${clock(asked_ns)}`, interrupted && "interrupted"].filter(Boolean).join(" · ");
      turn.node.removeAttribute("aria-busy");
      turn.node.dataset.state = "done";
      this.#judge(turn, { rating: rating.replace("RATING_", "").toLowerCase(), better });
      this.#earlier.append(el("p", { class: "question", text: question }), turn.node);
      this.#turns.set(id, turn);
    }
    if (rounds.length > 0) this.#log.querySelector(".empty")?.remove();
    const known = new Set(rounds.map(({ turn }) => turn));
    for (const { turn: id, question, instructions } of asked) {
      if (known.has(id)) this.memory.answered(id);
      else if (!this.#turns.has(id)) this.#begin(this.connection.ask(question, { turn: id, instructions }), el("p", { class: "question", text: question }), instructions);
    }
    this.#follow(true);
  }

  /** What was asked in a turn; undefined where it is not on the page. */
  question(id) {
    return this.#turns.get(id)?.question;
  }

  /** Brings a turn into sight, and leads the keyboard there. */
  reveal(id) {
    reveal(this.#turns.get(id)?.node);
  }

  /** The newest event that came before all that belongs to answers under way; undefined without any. */
  get mark() {
    return this.#open.values().next().value?.answer.mark;
  }

  /** Says that what was said before cannot be read; `again` reads it. */
  withhold(text, again) {
    const button = el("button", { type: "button", class: "quiet", text: "Try again", on: { click: again } });
    this.#earlier.replaceChildren(el("p", { class: "muted small" }, `Earlier answers are not shown: ${text} `, button));
  }

  /** Takes all that was said off the page. */
  clear() {
    this.cancel();
    this.#turns.clear();
    this.#earlier.replaceChildren();
    this.#log.replaceChildren(this.#earlier);
  }

  #round(id, question) {
    const turn = { id, question };
    const cancel = el("button", { type: "button", class: "quiet stop", text: "Cancel", "aria-label": `Cancel the answer to: ${question}`, on: { click: () => this.#turn === turn && this.cancel() } });
    const again = el("button", { type: "button", class: "quiet again", text: "Ask again", "aria-label": `Ask again: ${question}`, on: { click: () => this.ask(question) } });
    turn.words = document.createTextNode("");
    turn.about = el("p", { class: "about muted small" });
    turn.actions = el("div", { class: "actions" }, cancel, again);
    turn.node = el(
      "article",
      { class: "answer", "aria-busy": "true", data: { turn: turn.id, state: "asked" } },
      el("p", { class: "words" }, turn.words),
      turn.about,
      turn.actions,
    );
    return turn;
  }

  /** A round whose answer is awaited. `asked`: the question as it is shown. */
  #begin(answer, asked, instructions = "") {
    const turn = Object.assign(this.#round(answer.turn, answer.question), { answer });
    this.memory.ask(turn.id, turn.question, instructions);
    this.#append(asked, turn.node);
    this.#turn = turn;
    this.#open.set(turn.id, turn);
    this.#turns.set(turn.id, turn);
    if (this.#turns.size > MAX_MESSAGES) this.#turns.delete(this.#turns.keys().next().value);
    if (this.connection.speech) this.speech.begin(turn.id);
    answer.addEventListener("change", () => this.#show(turn));
    answer.addEventListener("end", () => this.#end(turn), { once: true });
    this.#show(turn);
    this.#buttons();
  }

  /** Ends the running answer and whatever is being spoken. */
  cancel() {
    this.speech.stop();
    const turn = this.#turn;
    if (!turn) return;
    this.#turn = null;
    turn.about.textContent = "cancelled";
    turn.node.dataset.state = "cancelled";
    turn.node.removeAttribute("aria-busy");
    this.memory.answered(turn.id);
    turn.answer.cancel();
    this.#buttons();
  }

  // Brings an answer under way up to date.
  #show({ answer, node, words, about }) {
    if (answer.state === "cancelled") return;
    node.dataset.state = answer.state;
    write(words, answer.text);
    setText(about, WAITS[answer.waits] ?? (answer.restarted ? RESTARTED : ""));
    this.#follow();
  }

  #listen() {
    const on = (kind, handler) => this.connection.addEventListener(kind, (event) => handler(event.detail));
    on("answer_started", ({ turn: id, restarted }) => {
      if (restarted && this.#turn?.id === id && this.connection.speech) this.speech.begin(id); // spoken anew, too
    });
    on("transcript", (transcript) => this.#hear(transcript));
    on("started", ({ resumed }) => resumed === "line" || this.#unsay()); // what was being said is said again, as another turn
    this.connection.addEventListener("state", () => {
      if (this.connection.state === "closed" && this.#unsay()) notice("What you said was not heard: the connection broke.");
    });
    on("playback", (playback) => this.#play(playback));
    on("audio_chunk", (chunk) => this.speech.play(chunk));
    on("error", ({ turn: id, watch, code, message }) => {
      this.#said.get(id)?.remove();
      if (this.#said.delete(id)) notice(`Not understood: ${inWords({ code, message })}`, { for_ms: 8000 });
      if (!id && !watch) notice(inWords({ code, message }).replace("speech_unavailable", "Not spoken"), { for_ms: 10_000 });
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
    if (text && !this.#turns.has(id)) this.#begin(this.connection.expect(id, text), asked);
  }

  // Takes what is being said off the page; whether something was.
  #unsay() {
    const some = this.#said.size > 0;
    for (const asked of this.#said.values()) asked.remove();
    this.#said.clear();
    return some;
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

  #holdable(button) {
    const press = () => this.connection.state !== "closed" && this.voice.mode !== "hold" && (this.speech.unlock(), this.voice.start(this.connection, "hold"));
    const release = () => this.voice.mode === "hold" && this.voice.stop();
    holdable(button, press, release);
  }

  // A moment that an answer is made of; its picture comes when it does.
  #remembered({ moment, start_ns, line = "", picture = false }) {
    const text = [`from memory, ${clock(start_ns)}`, line].filter(Boolean).join(": ");
    const image = el("img", { alt: line, hidden: true });
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
    if (picture) {
      server.moment(this.connection.session, moment).then(
        (blob) => ((image.src = URL.createObjectURL(blob)), (image.hidden = false)),
        () => image.remove(), // it was erased, or has left
      );
    }
    return el("figure", { class: "remembered" }, image, el("figcaption", { class: "muted small", text }));
  }

  // Lets the reader say what the answer is worth.
  #judge(turn, before) {
    const { connection, memory } = this;
    const send = (rating, better) => server.rate(connection.conversation || memory.conversation, turn.id, rating, better);
    turn.actions.append(...new Verdict(turn.question, send, before).nodes);
  }

  #end(turn) {
    const { answer, node } = turn;
    const { done, state } = answer;
    const cancelled = state === "cancelled";
    if (!cancelled) write(turn.words, answer.text);
    const flags = [done?.kept === false && NOT_KEPT, ...(done?.degraded ?? []).map(degradation)].filter(Boolean);
    node.append(...flags.map((text) => el("p", { class: "degraded small", text })));
    node.append(...(done?.memory ?? []).map((moment) => this.#remembered(moment)));
    if (done?.kept !== undefined && !cancelled) this.#judge(turn); // else there is nothing to keep it with
    node.dataset.state = state;
    node.removeAttribute("aria-busy");
    turn.about.textContent = done ? aboutAnswer(done) : cancelled ? "cancelled" : this.connection.reason === "gone" ? GONE : answer.error.message;
    const by = answeredBy(done);
    if (by) turn.about.prepend(el("span", { class: "badge", title: "This session asks another model its hard questions.", text: by }), " ");
    this.#open.delete(turn.id);
    this.memory.answered(turn.id);
    if (this.#turn === turn) this.#turn = null;
    this.#buttons();
    this.#follow();
  }

  #append(...nodes) {
    this.#log.querySelector(".empty")?.remove();
    this.#log.append(...nodes);
    while (this.#log.children.length > MAX_MESSAGES) this.#log.children[1].remove(); // the first holds what was before
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

// Writes on where the text only grew, so that it is read out once.
function write(words, text) {
  if (text.startsWith(words.data)) words.appendData(text.slice(words.data.length));
  else words.data = text;
}
