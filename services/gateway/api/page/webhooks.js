// Where events of a session's rules are sent by HTTP: who may, sees, makes and ends it here.

import { copyFrom, el, plural, setText } from "./dom.js";
import { server } from "./server.js";

const LEAST = { SEVERITY_INFO: "all events", SEVERITY_WARNING: "warnings and critical ones", SEVERITY_CRITICAL: "critical ones only" };

export class Webhooks {
  #session;
  #list = el("ul", { class: "watch-list" });
  #error = el("p", { class: "error", role: "alert" });
  #secret = el("div", { class: "address", role: "status" });

  constructor(session) {
    this.#session = session;
    const url = el("input", { name: "url", type: "url", required: true, placeholder: "https://shop.example/hook", "aria-label": "Address that events are sent to", autocomplete: "off" });
    const severity = el("select", { name: "severity", "aria-label": "Which events" }, ...Object.entries(LEAST).map(([value, text]) => el("option", { value, text })));
    const form = el("form", { class: "webhook-form" }, url, severity, el("button", { text: "Send them there" }));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#make({ url: url.value.trim(), severity: severity.value, session }).then((made) => made && form.reset());
    });
    this.node = el("details", { class: "webhooks" }, el("summary", { class: "small muted", text: "Send events elsewhere (webhooks)" }), this.#list, form, this.#secret, this.#error);
    this.node.addEventListener("toggle", () => this.node.open && this.look());
  }

  async look() {
    try {
      const all = await server.rules.webhooks();
      const ours = all.filter(({ session }) => !session || session === this.#session);
      this.#list.replaceChildren(...ours.map((each) => this.#row(each)));
      setText(this.#error, "");
    } catch (error) {
      setText(this.#error, error.message);
    }
  }

  async #make(wanted) {
    try {
      const { url, secret } = await server.rules.createWebhook(wanted);
      const field = el("input", { value: secret, readonly: true, "aria-label": "Secret" });
      const copy = el("button", { type: "button", text: "Copy", on: { click: () => copyFrom(copy, secret) } });
      this.#secret.replaceChildren(el("span", { text: `Events to ${url} are signed with this secret, which is shown only now:` }), el("div", { class: "row" }, field, copy));
      await this.look();
      return true;
    } catch (error) {
      setText(this.#error, error.message);
      return false;
    }
  }

  #row({ webhook, url, severity, session, state: { delivered = "0", dead = "0", failures = 0, error = "" } = {} }) {
    const remove = async () => {
      try {
        await server.rules.deleteWebhook(webhook);
      } catch (failed) {
        if (failed.status !== 404) return setText(this.#error, failed.message);
      }
      this.look();
    };
    const facts = [LEAST[severity] ?? LEAST.SEVERITY_INFO, session ? "" : "of every session", `${plural(Number(delivered), "event")} delivered`, Number(dead) > 0 ? `${dead} given up` : ""];
    return el(
      "li",
      {},
      el("div", { class: "row" }, el("span", { class: "condition", text: url }), el("button", { type: "button", class: "quiet", text: "Remove", "aria-label": `Remove the webhook: ${url}`, on: { click: remove } })),
      el("p", { class: "muted small", text: facts.filter(Boolean).join(" · ") }),
      failures > 0 ? el("p", { class: "degraded small", text: `The last ${failures === 1 ? "try" : `${failures} tries`} failed: ${error}. It is tried again.` }) : null,
    );
  }
}
