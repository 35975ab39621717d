// How answers are to be given: words that the model reads before each question, one's own or a preset.

import { el } from "./dom.js";

const MAX_CHARACTERS = 4000; // in any script well under the contract's 16 KiB
const PRESETS = {
  "One short sentence": "Answer in one short sentence.",
  "In detail": "Answer in detail: what is there, where it is, and what happens.",
  "For somebody who cannot see it": "Describe for somebody who cannot see the picture: first the whole, then what matters, with left, right, near and far.",
  "Only what is certain": "Say only what is plainly visible. Say so when you are not sure.",
};

export class Instructions {
  #text;

  constructor(memory) {
    this.#text = el("textarea", { name: "instructions", rows: 3, maxlength: MAX_CHARACTERS, "aria-label": "How to answer", placeholder: "How to answer, e.g. in one short sentence" });
    this.#text.value = memory.instructions;
    this.#text.addEventListener("input", () => (memory.instructions = this.value));
    const presets = Object.entries(PRESETS).map(([name, text]) => el("option", { text: name, value: text }));
    const choice = el("select", { "aria-label": "Ready-made instructions" }, el("option", { text: "Ready-made …", value: "" }), el("option", { text: "None", value: " " }), ...presets);
    choice.addEventListener("change", () => {
      this.#text.value = choice.value.trim();
      memory.instructions = this.value;
      choice.value = "";
    });
    this.node = el("details", { class: "instructions", open: memory.instructions !== "" }, el("summary", { class: "small muted", text: "Instructions" }), choice, this.#text);
  }

  get value() {
    return this.#text.value.trim();
  }
}
