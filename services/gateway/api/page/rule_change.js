// The form that changes when a rule tells, and how grave that is, beneath the rule.

import { el, setText } from "./dom.js";
import { kindOfRule } from "./rule_events.js";
import { RuleTerms, TERMS } from "./rule_terms.js";

export class RuleChange {
  #terms = new RuleTerms();
  #rule;
  #before; // what the form said when it was opened
  #error = el("p", { class: "error", role: "alert" });

  /** `change(changes)`: makes them, or throws with words for people. */
  constructor(rule, change) {
    this.#rule = rule;
    this.#terms.ofKind(kindOfRule(rule));
    const form = el("form", { class: "rule-change" }, this.#terms.node, this.#error, el("div", { class: "row end" }, el("button", { class: "primary", text: "Change" })));
    this.node = el("details", {}, el("summary", { class: "small muted", "aria-label": `${TERMS} of ${rule.name}`, text: TERMS }), form);
    this.node.addEventListener("toggle", () => {
      if (!this.node.open) return;
      this.#terms.show(this.#rule);
      this.#before = this.#terms.read();
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      setText(this.#error, "");
      try {
        const changes = this.#changes();
        if (Object.keys(changes).length > 0) await change(changes);
        this.node.open = false;
      } catch (error) {
        setText(this.#error, error.message);
      }
    });
  }

  /** Takes the rule as it is now; what is being typed stays. */
  show(rule) {
    this.#rule = rule;
  }

  // What was typed alone: hours of certain days, which this form does not show, stay as they are.
  #changes() {
    const now = this.#terms.read();
    const usual = { threshold: -1, interval_s: -1, debounce_s: 0, cooldown_s: 0, schedule: {}, severity: "", labels: {} };
    const changed = Object.entries(usual).filter(([name]) => JSON.stringify(now[name]) !== JSON.stringify(this.#before[name]));
    const changes = Object.fromEntries(changed.map(([name, value]) => [name, now[name] ?? value]));
    if (changes.labels) changes.labels = { labels: changes.labels }; // so that none at all can be told from no change
    return changes;
  }
}
