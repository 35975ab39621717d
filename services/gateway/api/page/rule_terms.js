// Fields of a form that say when a rule tells, and how grave that is: its importance, its threshold, its timing,
// its hours, its labels.

import { el, setText } from "./dom.js";

/** What the fields are about, for people. */
export const TERMS = "Importance, threshold, timing, hours, labels";
const SCALES = { score: "Active from level (the first is 0)", commentary: "New words at least (%)" };
const OF_PROBABILITY = "Sure at least (%)";
const SEVERITIES = { SEVERITY_INFO: "Information", SEVERITY_WARNING: "Warning", SEVERITY_CRITICAL: "Critical" };
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
    severity: el("select", { name: "severity" }, ...Object.entries(SEVERITIES).map(([value, text]) => el("option", { value, text }))),
    labels: el("textarea", { name: "labels", rows: 2, placeholder: "room=hall", spellcheck: "false", autocomplete: "off" }),
  };

  constructor() {
    const { threshold, interval_s, debounce_s, cooldown_s, begin, end, severity, labels } = this.#inputs;
    this.node = el(
      "div",
      { class: "timing" },
      el("label", {}, "Importance", severity),
      el("label", {}, this.#scale, threshold),
      el("label", {}, "Check every (s)", interval_s),
      el("label", {}, "Must hold for (s)", debounce_s),
      el("label", {}, "Pause between events (s)", cooldown_s),
      el("label", {}, "Only from", begin),
      el("label", {}, "until", end),
      el("label", { class: "wide" }, "Labels for programs, one a line", labels),
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
    const { threshold, begin, end, severity, labels } = this.#inputs;
    threshold.value = rule.threshold === undefined ? "" : Number((rule.threshold * this.#unit).toFixed(4));
    for (const name of SECONDS) this.#inputs[name].value = rule[name] ?? "";
    const [hours = {}] = rule.schedule?.hours ?? [];
    begin.value = hours.begin ?? "";
    end.value = hours.end === "24:00" ? "00:00" : (hours.end ?? ""); // the fields have no 24:00
    severity.value = rule.severity ?? "SEVERITY_INFO";
    labels.value = labelsOf(rule).join("\n");
  }

  /** What is filled in, as a rule has it. Throws with words for people where labels are none. */
  read() {
    const said = (name) => this.#inputs[name].value.trim();
    const terms = { severity: said("severity") };
    const labels = labelled(said("labels"));
    if (Object.keys(labels).length > 0) terms.labels = labels;
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

/** The labels of a rule or an event as lines, "room=hall", in an order of their own: the wire has none. */
export const labelsOf = ({ labels = {} }) => Object.entries(labels).map(([key, value]) => `${key}=${value}`).sort();

function labelled(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  return Object.fromEntries(
    lines.map((line) => {
      const [, key, value] = /^([^=]+?)\s*=\s*(.*)$/.exec(line) ?? [];
      if (!key) throw new Error(`“${line}” is no label: a key, an equals sign and a value, as in room=hall.`);
      return [key, value];
    }),
  );
}

function number(name, more) {
  return el("input", { type: "number", name, min: 0, max: 3600, step: "any", ...more });
}
