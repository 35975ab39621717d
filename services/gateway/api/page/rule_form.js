// The form that makes a rule: what is asked for depends on its kind.

import { el, newLocalId, setText } from "./dom.js";
import { RuleTerms, TERMS } from "./rule_terms.js";

const KINDS = {
  predicate: "Something is so",
  choice: "Which of several it is",
  score: "How much there is of something",
  product: "Which product is shown",
  health: "The picture is bad",
  commentary: "Tell me what happens",
};
const CONDITIONS = ["dead", "dark", "covered", "frozen", "repeating"];
const CATALOGUE = "sku,names,price,link\nC-1,a red cup|a mug,9 €,https://…";

const lines = (text) =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);

export class RuleForm {
  #terms = new RuleTerms();
  #error = el("p", { class: "error", role: "alert" });
  #conditions = el("datalist", { id: newLocalId("conditions") });

  /** `make(rule)`: makes it, or throws with words for people. */
  constructor(make) {
    const kind = el("select", { name: "kind" }, ...Object.entries(KINDS).map(([value, text]) => el("option", { value, text })));
    const parts = {
      predicate: [field("Tell me when", line("condition", "a phone is there", { list: this.#conditions.id, maxlength: 400 })), this.#conditions],
      choice: [field("What is it about? Options stand for {}", line("choice", "the light is {}")), field("Options, one a line", area("options", "red\ngreen"))],
      score: [field("What is it about? Levels stand for {}", line("score", "the queue is {}")), field("Levels from the least to the most, one a line", area("levels", "empty\nshort\nlong"))],
      product: [
        field("Catalogue as CSV (several names have | between)", area("products", CATALOGUE)),
        field("… or a file of it", el("input", { type: "file", name: "file", accept: ".csv,.json,text/csv,application/json" })),
        field("While none is shown (spares checks; may be left empty)", line("idle", "the hand is holding nothing")),
      ],
      health: [el("fieldset", { class: "choice" }, el("legend", { class: "small muted", text: "Which faults? None ticked: any of them." }), ...CONDITIONS.map((value) => el("label", {}, el("input", { type: "checkbox", name: "fault", value }), value)))],
      commentary: [field("What is asked again and again", line("commentary", "What happens now?")), field("How to answer (may be left empty)", line("how", "in one short sentence"))],
    };
    const ofKind = Object.entries(parts).map(([name, nodes]) => el("div", { data: { kind: name }, hidden: name !== "predicate" }, ...nodes));
    this.form = el(
      "form",
      { class: "rule-form" },
      field("What to watch for", kind),
      ...ofKind,
      field("Name (may be left empty)", line("name", "", { maxlength: 80 })),
      el("details", {}, el("summary", { class: "small muted", text: TERMS }), this.#terms.node),
      this.#error,
      el("div", { class: "row end" }, el("button", { class: "primary", text: "Make the rule" })),
    );
    kind.addEventListener("change", () => {
      for (const part of ofKind) part.hidden = part.dataset.kind !== kind.value;
      this.#terms.ofKind(kind.value);
      setText(this.#error, "");
    });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(make);
    });
    this.node = el("details", { class: "rule-make" }, el("summary", { text: "New rule" }), this.form);
  }

  /** Offers these conditions in the place of others. */
  suggest(conditions) {
    this.#conditions.replaceChildren(...conditions.map((value) => el("option", { value })));
    if (conditions[0]) this.#named("condition").placeholder = conditions[0];
  }

  async #submit(make) {
    const button = this.form.querySelector("button.primary");
    button.disabled = true;
    setText(this.#error, "");
    try {
      await make(await this.#rule());
      const kind = this.#named("kind").value;
      this.form.reset();
      this.#named("kind").value = kind;
    } catch (error) {
      setText(this.#error, error.message);
    } finally {
      button.disabled = false;
    }
  }

  async #rule() {
    const said = (name) => this.#named(name).value.trim();
    const kind = said("kind");
    return { [kind]: await this.#ofKind(kind, said), name: said("name"), ...this.#terms.read() };
  }

  async #ofKind(kind, said) {
    switch (kind) {
      case "predicate":
        return { condition: needed(said("condition"), "Say what to tell you of, such as “a phone is there”.") };
      case "choice":
        return { statement: needed(said("choice"), "Say what it is about, such as “the light is {}”."), options: several(said("options"), "options") };
      case "score":
        return { statement: needed(said("score"), "Say what it is about, such as “the queue is {}”."), levels: several(said("levels"), "levels") };
      case "product": {
        const file = this.#named("file").files[0];
        const text = file ? await file.text() : said("products");
        return { products: productsOf(text), idle: said("idle") };
      }
      case "health":
        return { conditions: [...this.form.querySelectorAll("[name=fault]:checked")].map(({ value }) => value) };
      default:
        return { question: said("commentary"), instructions: said("how") };
    }
  }

  #named(name) {
    return this.form.elements.namedItem(name);
  }
}

const field = (label, input) => el("label", { class: "field" }, el("span", { class: "small", text: label }), input);
const line = (name, placeholder, more = {}) => el("input", { name, placeholder, autocomplete: "off", ...more });
const area = (name, placeholder) => el("textarea", { name, placeholder, rows: 3, spellcheck: "false" });

function needed(text, words) {
  if (!text) throw new Error(words);
  return text;
}

function several(text, what) {
  const found = lines(text);
  if (found.length < 2) throw new Error(`Give at least two ${what}, one a line.`);
  return found;
}

/** Products of a catalogue, JSON or CSV, as `sightline rules add --catalogue` reads it. */
function productsOf(text) {
  const wrong = new Error("That is no catalogue: a first line “sku,names,price,link”, then a product a line.");
  let rows;
  try {
    rows = /^\s*[[{]/.test(text) ? JSON.parse(text) : rowsOf(text);
    rows = rows.products ?? rows;
  } catch {
    throw wrong;
  }
  if (!Array.isArray(rows) || rows.length === 0) throw wrong;
  return rows.map(({ sku, names, link, price, picture }) => {
    const named = (Array.isArray(names) ? names : String(names ?? "").split("|")).map((name) => name.trim()).filter(Boolean);
    if (!sku || named.length === 0) throw wrong;
    return Object.fromEntries(Object.entries({ sku: String(sku), names: named, link, price, picture }).filter(([, value]) => value));
  });
}

// CSV with a heading; a field in quotes may hold commas, and quotes twice.
function rowsOf(text) {
  const [heading, ...rest] = lines(text.replace(/^\uFEFF/, "")).map((row) =>
    [...row.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map(([, quoted, plain]) => (quoted?.replaceAll('""', '"') ?? plain).trim()),
  );
  return rest.map((cells) => Object.fromEntries(heading.map((name, at) => [name, cells[at]])));
}
