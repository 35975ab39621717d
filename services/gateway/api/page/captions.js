// What is said in the video, under its picture, for as long as it takes to read.

import { byId, setText } from "./dom.js";

const SHOWN_MS = 8000;

export class Captions {
  #timer = 0;

  constructor() {
    this.line = byId("said");
  }

  /** Somebody has said this. */
  show(text) {
    clearTimeout(this.#timer);
    setText(this.line, `“${text}”`);
    this.line.hidden = false;
    this.#timer = setTimeout(() => this.clear(), SHOWN_MS);
  }

  clear() {
    clearTimeout(this.#timer);
    this.line.hidden = true;
  }
}
