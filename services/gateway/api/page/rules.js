// Standing rules of one session: made, seen, paused, changed and ended here, kept by the server, which looks after them
// whether or not anybody has the page open. What they told is listed, acknowledged and exported, and put
// on the timeline.

import { clock, confirmed, el, plural, reveal, setText } from "./dom.js";
import { lastCheck, momentOf, standing, tells, told } from "./rule_events.js";
import { RuleChange } from "./rule_change.js";
import { RuleForm } from "./rule_form.js";
import { labelsOf } from "./rule_terms.js";
import { server } from "./server.js";
import { Webhooks } from "./webhooks.js";

const LOOK_MS = 2000;
const WHOLE_MS = 30_000; // between two looks for what others acknowledged: the server reads far back for it
const RECENT_MS = 600_000; // more than clocks differ
const SAVED_MS = 10_000; // by then a browser has read what it saves
const MAX_NAME = 80; // characters, by the contract
const AT_ONCE = 50; // events that are shown
const IMPORTANT = { SEVERITY_WARNING: "warning", SEVERITY_CRITICAL: "critical" };

export class Rules {
  #session;
  #timeline;
  #rows = new Map(); // rule id → its nodes
  #events = new Map(); // event id → {event, node}, of those that are shown
  #list = el("ul", { class: "watch-list" });
  #none = el("p", { class: "empty muted small", text: "A rule goes on when nobody looks. None is set yet." });
  #error = el("p", { class: "error", role: "alert" });
  #said = el("p", { class: "small muted", role: "status" });
  #log = el("ol", { class: "moments", tabindex: "0", "aria-label": "What the rules told, the newest first" });
  #count = el("h3", {});
  #all = el("button", { type: "button", class: "quiet", text: "Acknowledge all", on: { click: () => this.#acknowledgeAll() } });
  #newest = []; // the events that are shown, the newest first
  #listed = 0; // when all of them were asked for
  #told;
  #timer;

  /** `enabled()`: whether the server has rules. */
  constructor(session, timeline, enabled, suggestions) {
    this.#session = session;
    this.#timeline = timeline;
    this.enabled = enabled;
    this.form = new RuleForm((rule) => this.#make(rule));
    this.form.suggest(suggestions);
    this.webhooks = new Webhooks(session);
    const exported = ["JSON", "CSV"].map((kind) => el("button", { type: "button", class: "quiet", text: kind, "aria-label": `Export all events as ${kind}`, on: { click: ({ target }) => this.#export(kind, target) } }));
    this.#told = el("div", { hidden: true }, el("div", { class: "title" }, this.#count, this.#all, el("span", { class: "small muted", text: "Export" }), ...exported), this.#log);
    this.node = el("div", { class: "room" }, this.#none, this.#list, this.form.node, this.#said, this.#error, this.#told, this.webhooks.node);
    this.#timer = setInterval(() => this.look(), LOOK_MS);
  }

  close() {
    clearInterval(this.#timer);
  }

  /** Brings all of it up to date. */
  async look() {
    if (document.hidden || !this.node.isConnected || !this.enabled()) return;
    try {
      const [rules, newest] = await Promise.all([server.rules.all(this.#session), this.#look()]);
      this.#showRules(rules);
      this.#showEvents(newest);
      setText(this.#error, "");
    } catch (error) {
      if (error.status !== 404) setText(this.#error, `The rules cannot be read now. ${error.message}`); // a session that is gone is said to be elsewhere
    }
  }

  async #look() {
    const whole = Date.now() - this.#listed > WHOLE_MS;
    const after = whole ? "" : (this.#newest[0]?.event ?? `${Date.now() - RECENT_MS}-0`);
    const { events = [] } = await server.rules.events({ session: this.#session, page_size: AT_ONCE, after });
    if (whole) this.#listed = Date.now();
    const known = new Set(events.map(({ event }) => event));
    return whole ? events : [...events, ...this.#newest.filter(({ event }) => !known.has(event))].slice(0, AT_ONCE);
  }

  async #make(wanted) {
    const { name } = await server.rules.create(this.#session, { ...wanted, name: wanted.name || this.#nameOf(wanted) });
    setText(this.#said, `“${name}” is watched for from now on.`);
    this.look(); // what is typed next is not waited for
  }

  // Without a name it is called what it tells, where no other is; else the server calls it something.
  #nameOf({ predicate, choice, score }) {
    const said = predicate?.condition ?? choice?.statement ?? score?.statement ?? "";
    const taken = [...this.#rows.values()].some(({ rule }) => rule.name === said);
    return taken || said.length > MAX_NAME ? "" : said;
  }

  async #change({ rule }, changes) {
    this.#show(this.#rows.get(rule), await server.rules.update(rule, changes));
  }

  async #pause(rule) {
    const { paused = false } = this.#rows.get(rule.rule).rule;
    try {
      await this.#change(rule, { paused: !paused });
      setText(this.#said, paused ? `“${rule.name}” is watched for again.` : `“${rule.name}” is paused.`);
    } catch (error) {
      setText(this.#error, error.message);
    }
  }

  async #remove(rule) {
    if (!(await confirmed(`End the rule “${rule.name}”? It is ended for everybody; what it told stays.`))) return;
    try {
      await server.rules.delete(rule.rule);
      setText(this.#said, `“${rule.name}” has ended.`);
    } catch (error) {
      if (error.status !== 404) return setText(this.#error, error.message);
    }
    await this.look();
  }

  // --- the rules ----------------------------------------------------------------------------

  #showRules(rules) {
    for (const [id, { node }] of this.#rows) {
      if (rules.some(({ rule }) => rule === id)) continue;
      node.remove();
      this.#rows.delete(id);
    }
    for (const rule of rules) this.#show(this.#rows.get(rule.rule) ?? this.#add(rule), rule);
    this.#none.hidden = rules.length > 0;
  }

  #add(rule) {
    const row = {
      badge: el("span", { class: "badge" }),
      grave: el("span", { class: "badge", data: { state: "unwell" } }),
      tells: el("p", { class: "small" }),
      labels: el("p", { class: "muted small labels" }),
      check: el("p", { class: "muted small stands" }),
      doubt: el("p", { class: "degraded small" }),
    };
    row.pause = el("button", { type: "button", class: "quiet", on: { click: () => this.#pause(rule) } });
    row.change = new RuleChange(rule, (changes) => this.#change(rule, changes));
    const remove = el("button", { type: "button", class: "quiet", "aria-label": `End the rule: ${rule.name}`, text: "End", on: { click: () => this.#remove(rule) } });
    row.node = el(
      "li",
      { data: { rule: rule.rule } },
      el("div", { class: "row" }, row.badge, el("span", { class: "condition", text: rule.name }), row.grave, row.pause, remove),
      row.tells,
      row.labels,
      row.check,
      row.doubt,
      row.change.node,
    );
    this.#rows.set(rule.rule, row);
    this.#list.append(row.node);
    return row;
  }

  #show(row, rule) {
    const { badge, grave, labels, check, doubt, pause, change } = row;
    row.rule = rule;
    change.show(rule);
    setText(row.tells, tells(rule) + hoursOf(rule));
    setText(grave, IMPORTANT[rule.severity] ?? "");
    grave.hidden = !grave.textContent;
    setText(labels, labelsOf(rule).join(", "));
    labels.hidden = !labels.textContent;
    setText(pause, rule.paused ? "Resume" : "Pause");
    pause.setAttribute("aria-label", `${rule.paused ? "Resume" : "Pause"} the rule: ${rule.name}`);
    const { events = "0", time_ns, error = "", check: last } = rule.state ?? {};
    const [style, text] = standing(rule);
    setText(badge, text);
    badge.dataset.state = style;
    const since = Number(events) > 0 ? ` · told ${plural(Number(events), "time")}, last at ${clock(time_ns)}` : "";
    setText(check, lastCheck(rule) + since);
    setText(doubt, error && !rule.paused ? `It is not checked: ${error}` : last?.unfamiliar_picture ? "Cannot tell: the picture is unlike those that the model was trained on." : "");
  }

  // --- what they told -----------------------------------------------------------------------

  #showEvents(events) {
    this.#newest = events;
    const shown = new Set(events.map(({ event }) => event));
    for (const [id, { node }] of this.#events) {
      if (shown.has(id)) continue;
      node.remove();
      this.#events.delete(id);
    }
    for (const event of events.toReversed()) {
      const before = this.#events.get(event.event);
      if (before && Boolean(before.event.acknowledged) === Boolean(event.acknowledged)) continue;
      const node = this.#row(event);
      if (before) before.node.replaceWith(node);
      else this.#log.prepend(node);
      this.#events.set(event.event, { event, node });
      this.#timeline.add({ ...momentOf(event), show: () => reveal(this.#events.get(event.event)?.node) });
    }
    const open = events.filter(({ acknowledged }) => !acknowledged).length;
    setText(this.#count, open > 0 ? `Told, ${open === AT_ONCE ? `${open} or more` : open} not acknowledged` : "Told");
    this.#all.hidden = open < 2;
    this.#told.hidden = events.length === 0;
  }

  #row(event) {
    const { time_ns, rule_name, severity, acknowledged } = event;
    const text = `${rule_name}: ${told(event)}`;
    const by = acknowledged && `acknowledged${acknowledged.by ? ` by ${acknowledged.by}` : ""} at ${clock(acknowledged.time_ns)}`;
    return el(
      "li",
      { class: "told", data: { kind: IMPORTANT[severity] && !acknowledged ? "unwell" : momentOf(event).kind, event: event.event } },
      el("span", { class: "condition" }, el("time", { text: clock(time_ns) }), ` ${text}`),
      event.picture || event.clip ? el("button", { type: "button", class: "quiet", text: "Show", "aria-label": `Show the moment: ${text}`, on: { click: () => this.#timeline.open(momentOf(event)) } }) : null,
      acknowledged ? el("span", { class: "muted", text: by }) : el("button", { type: "button", class: "quiet", text: "Acknowledge", "aria-label": `Acknowledge: ${text}`, on: { click: () => this.#acknowledge(event) } }),
    );
  }

  async #acknowledge(event) {
    const there = this.#events.get(event.event)?.node.contains(document.activeElement);
    await this.#note(event);
    if (there) reveal(this.#events.get(event.event)?.node); // its button is gone: the keyboard stays at it
  }

  async #acknowledgeAll() {
    for (const event of this.#newest.filter(({ acknowledged }) => !acknowledged)) await this.#note(event);
    this.#log.focus();
  }

  async #note({ event }) {
    try {
      const noted = await server.rules.acknowledge(event);
      this.#showEvents(this.#newest.map((each) => (each.event === event ? noted : each)));
    } catch (error) {
      setText(this.#error, error.message);
    }
  }

  async #export(kind, button) {
    button.disabled = true;
    try {
      const wanted = { session: this.#session };
      const text = kind === "CSV" ? await server.rules.table(wanted) : JSON.stringify(await Array.fromAsync(server.rules.everyEvent(wanted)), null, 2);
      const url = URL.createObjectURL(new Blob([text], { type: kind === "CSV" ? "text/csv" : "application/json" }));
      el("a", { href: url, download: `events.${kind.toLowerCase()}` }).click();
      setTimeout(() => URL.revokeObjectURL(url), SAVED_MS);
    } catch (error) {
      setText(this.#error, error.message);
    } finally {
      button.disabled = false;
    }
  }
}

const hoursOf = ({ schedule }) => (schedule?.hours ?? []).map(({ begin = "00:00", end = "24:00" }) => `, from ${begin} until ${end}`).join("");
