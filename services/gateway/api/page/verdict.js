// What somebody thinks of an answer: good or not and, where not, what would have been right. The server
// keeps it with the turn.

import { el, setText } from "./dom.js";

const NAMES = { up: "Good", down: "Not good" }; // words: not every machine has a thumb among its letters

export class Verdict {
  #rating;
  #buttons = new Map();
  #form;
  #better;
  #said = el("span", { class: "muted", role: "status" });

  /** `send(rating, better)` keeps it, or throws what can be shown; `question`: what was asked. */
  constructor(question, send, { rating = "", better = "" } = {}) {
    this.send = send;
    this.#rating = rating;
    for (const [each, name] of Object.entries(NAMES)) {
      const press = () => this.#rate(this.#rating === each ? "" : each);
      this.#buttons.set(each, el("button", { type: "button", class: `quiet ${each}`, text: name, "aria-label": `${name}: ${question}`, on: { click: press } }));
    }
    this.#better = el("input", { name: "better", autocomplete: "off", value: better, maxlength: 2000, placeholder: "What would be right?", "aria-label": `What would be right: ${question}` });
    this.#form = el("form", { class: "better", hidden: true }, this.#better, el("button", { text: "Tell" }));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#rate("down", this.#better.value.trim());
    });
    this.nodes = [...this.#buttons.values(), this.#said, this.#form];
    this.#show();
  }

  async #rate(rating, better = "") {
    try {
      await this.send(rating, better);
    } catch (error) {
      return setText(this.#said, error.reason === "TURN_NOT_FOUND" ? "This answer is not stored yet. Try again in a moment." : error.message);
    }
    this.#rating = rating;
    setText(this.#said, rating ? "Thank you." : "");
    this.#show();
    this.#form.hidden = rating !== "down" || better !== "";
    if (!this.#form.hidden) this.#better.focus();
  }

  #show() {
    for (const [each, button] of this.#buttons) button.setAttribute("aria-pressed", String(each === this.#rating));
  }
}
