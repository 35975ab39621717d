// Fields of a form that say when a rule tells: its threshold, its timing, its hours.

import { el, setText } from "./dom.js";

const SCALES = { score: "Active from level (the first is 0)", commentary: "New words at least (%)" };
const OF_PROBABILITY = "Sure at least (%)";
const SECONDS = ["interval_s", "debounce_s", "cooldown_s"];

export class RuleTerms {
  #kind = "predicate";
  #scale = el("span", { text: OF_PROBABILITY });
  #inputs = {
    threshold: number("threshold", { max: 100, placeholder: "50" }),
    interval_s: number("interval_s", { placeholder: "1" }),
    debounce_s: number("debounce_s", { placeholder: "0" }),
    cooldown_s: number("cooldown_s", { placeholder: "0" }),
    begin: el("input", { type: "time", name: "begin" }),
    end: el("input", { type: "time", name: "end" }),
  };

  constructor() {
    const { threshold, interval_s, debounce_s, cooldown_s, begin, end } = this.#inputs;
    this.node = el(
      "div",
      { class: "timing" },
      el("label", {}, this.#scale, threshold),
      el("label", {}, "Check every (s)", interval_s),
      el("label", {}, "Must hold for (s)", debounce_s),
      el("label", {}, "Pause between events (s)", cooldown_s),
      el("label", {}, "Only from", begin),
      el("label", {}, "until", end),
    );
  }

  /** Asks for what a kind of rules has. */
  ofKind(kind) {
    this.#kind = kind;
    setText(this.#scale, SCALES[kind] ?? OF_PROBABILITY);
    this.#inputs.threshold.placeholder = kind === "score" ? "half" : kind === "commentary" ? "40" : "50";
    this.#inputs.interval_s.placeholder = kind === "commentary" ? "10" : "1";
  }

  /** Fills in what a rule has. */
  show(rule) {
    const { threshold, begin, end } = this.#inputs;
    threshold.value = rule.threshold === undefined ? "" : Number((rule.threshold * this.#unit).toFixed(4));
    for (const name of SECONDS) this.#inputs[name].value = rule[name] ?? "";
    const [hours = {}] = rule.schedule?.hours ?? [];
    begin.value = hours.begin ?? "";
    end.value = hours.end === "24:00" ? "00:00" : (hours.end ?? ""); // the fields have no 24:00
  }

  /** What is filled in, as a rule has it. */
  read() {
    const said = (name) => this.#inputs[name].value.trim();
    const terms = {};
    for (const name of SECONDS) if (said(name)) terms[name] = Number(said(name));
    if (said("threshold")) terms.threshold = Number(said("threshold")) / this.#unit;
    if (said("begin") || said("end")) {
      const hours = { begin: said("begin") || "00:00", end: said("end") || "24:00" };
      terms.schedule = { time_zone: Intl.DateTimeFormat().resolvedOptions().timeZone, hours: [hours] };
    }
    return terms;
  }

  get #unit() {
    return this.#kind === "score" ? 1 : 100;
  }
}

function number(name, more) {
  return el("input", { type: "number", name, min: 0, max: 3600, step: "any", ...more });
}
