// Events of rules, and rules themselves, in words for people.

import { clock, words } from "./dom.js";

const ASKED = {
  predicate: ({ condition }) => `when “${condition}” begins and ceases`,
  choice: ({ statement, options = [] }) => `which it is: “${statement}”, of ${options.join(", ")}`,
  score: ({ statement, levels = [] }) => `how much: “${statement}”, from ${levels[0]} to ${levels.at(-1)}`,
  product: ({ products = [] }) => `which of ${products.length} ${products.length === 1 ? "product" : "products"} is shown`,
  health: ({ conditions = [] }) => `when the picture is ${conditions.length > 0 ? conditions.join(" or ") : "bad"}`,
  commentary: ({ question }) => `what is new: “${question || "What happens now?"}”`,
};
const WHY_NO_MORE = { schedule: "its hours have ended", paused: "it was paused" };
const percent = (part) => `${Math.round(100 * part)} %`;

/** The kind of a rule, as the contract names it. */
export const kindOfRule = (rule) => Object.keys(ASKED).find((kind) => rule[kind]) ?? "";

/** What a rule tells. */
export const tells = (rule) => `tells ${ASKED[kindOfRule(rule)]?.(rule[kindOfRule(rule)]) ?? ""}`;

/** [a word for styling, words for people]: what a rule told last. */
export function standing(rule) {
  const { events = "0", active = false, value = "" } = rule.state ?? {};
  const kind = kindOfRule(rule);
  if (rule.paused) return ["off", "paused"];
  if (events === "0") return ["none", kind === "commentary" ? "nothing yet" : kind === "health" ? "fine" : "not yet"];
  if (kind === "predicate") return active ? ["on", "now"] : ["off", "no more"];
  if (kind === "commentary") return ["on", "telling"];
  if (kind === "health") return active ? ["unwell", value] : ["on", "fine"];
  return active ? ["on", productOf(rule, value)] : ["off", kind === "product" ? "none shown" : value || "no more"];
}

/** When a rule was looked at last, and what that found. */
export function lastCheck(rule) {
  const { check } = rule.state ?? {};
  if (!check) return rule.paused ? "not checked while it is paused" : rule.schedule ? "not checked yet: it may be outside its hours" : "not checked yet";
  return [`last checked at ${clock(check.time_ns)}`, found(rule, check)].filter(Boolean).join(": ");
}

function found(rule, { active = false, value = "", probability = 0, score = 0, unfamiliar_picture: strange = false }) {
  const kind = kindOfRule(rule);
  if (strange) return "";
  if (kind === "predicate") return `${percent(probability)} yes`;
  if (kind === "choice") return value ? `${value} (${percent(probability)})` : "none is likely enough";
  if (kind === "score") return `${value}, ${score.toFixed(1)} of ${rule.score.levels.length - 1}`;
  if (kind === "product") return active ? `${productOf(rule, value)} (${percent(probability)})` : "none shown";
  return kind === "health" ? value : "";
}

const productOf = (rule, sku) => rule.product?.products.find((each) => each.sku === sku)?.names[0] ?? sku;

/** What an event says, without the name of its rule. */
export function told({ kind, active = false, value = "", text = "", probability = 0, product, reason = "" }) {
  const none = kind === "product" ? "none is shown any more" : "it holds no more";
  const what = text || product?.names?.[0] || (kind === "score" && !active ? `below the threshold: ${value}` : value) || (active ? "it holds now" : none);
  const sure = probability > 0 && !text && kind !== "health" ? ` (${percent(probability)})` : "";
  return WHY_NO_MORE[reason] ?? what + sure;
}

/** An event as an entry of the timeline. */
export function momentOf(event) {
  const { event: id, rule_name, kind, active = false, text = "", time_ns, picture = false, clip = false } = event;
  const place = `api/events/${encodeURIComponent(id)}`;
  const good = kind === "health" ? !active : active || text || kind === "choice";
  return {
    at_ns: time_ns,
    kind: good ? "on" : kind === "health" ? "unwell" : "off",
    text: `${rule_name || words(kind)}: ${told(event)}`,
    picture: picture ? `${place}/picture` : "",
    clip: clip ? `${place}/clip` : "",
  };
}
