// The model: what it is, how far it is while it is made ready, and that it is away. Asks again and
// again, because a page may be opened before there is a model, and a model may come back.

import { byId, setText } from "./dom.js";
import { server } from "./server.js";
import { token } from "./sign_in.js";

const READY_MS = 10_000;
const NOT_READY_MS = 1000;
const AWAY_MS = 3000; // so long it may be silent before that is said

/** The model that answers, of what the server tells; undefined while there is none. */
export const readyModel = (info) => info.models?.find((model) => model.ready);

/** Fires "info" with what the server tells, whenever the model is another one. */
export class Model extends EventTarget {
  info = {};
  #known = null; // the model's name, "" while there is none
  #seen = false; // a model was ready since the page was opened
  #away = 0; // since when there is none

  async watch() {
    if (!document.hidden) await this.#look();
    setTimeout(() => this.watch(), this.#known ? READY_MS : NOT_READY_MS);
  }

  /** The server could not carry something out: look at once. */
  doubt() {
    this.#look();
  }

  async #look() {
    try {
      this.info = await server.info();
    } catch {
      return; // the list of sessions says that the server is away
    }
    if (this.info.sign_in && !token()) return; // nothing else is told before
    const name = readyModel(this.info)?.name ?? "";
    this.#away = name ? 0 : this.#away || performance.now();
    if (name !== this.#known) {
      this.#known = name;
      this.dispatchEvent(new CustomEvent("info", { detail: this.info }));
    }
    this.#seen ||= Boolean(name);
    this.#show();
  }

  #show() {
    const loading = this.info.models?.find((model) => !model.ready)?.loading;
    const place = byId("loading");
    const bar = byId("loading-bar");
    const waiting = !this.#known && (loading || performance.now() - this.#away > AWAY_MS || !this.#seen);
    place.hidden = !waiting;
    if (!waiting) return;
    const starting = this.#seen ? "The model is restarting, about 20 s." : "The model is starting, about 20 s.";
    setText(byId("loading-text"), loading?.text ?? starting);
    bar.hidden = !Number.isFinite(loading?.percent);
    if (!bar.hidden) bar.value = loading.percent;
  }
}
