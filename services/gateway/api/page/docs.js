// The HTTP interface for people: openapi.json as a list, with a line of curl for each operation.

const NAME = "#/components/schemas/";

/** An element with its content; text never becomes markup. */
function make(tag, { className = "", text = "", open } = {}, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  if (open !== undefined) element.open = open;
  element.append(...children);
  return element;
}

/** Words in which what stands between backticks is code. */
function prose(tag, text) {
  const parts = text.split("`").map((part, index) => (index % 2 ? make("code", { text: part }) : part));
  return make(tag, {}, ...parts);
}

/** A value that a schema allows, to be looked at: messages that hold themselves are named only. */
function example(schema, schemas, seen = []) {
  if (schema.$ref) {
    const name = schema.$ref.slice(NAME.length);
    return seen.includes(name) ? `<${name}>` : example(schemas[name], schemas, [...seen, name]);
  }
  if (schema.anyOf || schema.oneOf) return example((schema.anyOf ?? schema.oneOf)[0], schemas, seen);
  if (schema.enum) return schema.enum[Math.min(1, schema.enum.length - 1)];
  if (schema.type === "object") {
    if (schema.additionalProperties) return { "…": example(schema.additionalProperties, schemas, seen) };
    const fields = Object.entries(schema.properties ?? {});
    return Object.fromEntries(fields.map(([name, field]) => [name, example(field, schemas, seen)]));
  }
  if (schema.type === "array") return [example(schema.items ?? {}, schemas, seen)];
  if (schema.type === "boolean") return false;
  if (schema.type === "integer" || schema.type === "number") return 0;
  return schema.pattern ? "0" : "…";
}

function curlOf(method, path, operation, schemas) {
  const taken = operation.requestBody?.content ?? {};
  const body = taken["application/json"]?.schema;
  const parts = ["curl"];
  if (method !== "get") parts.push(`-X ${method.toUpperCase()}`);
  if (taken["image/jpeg"]) parts.push("--data-binary @picture.jpg");
  if (body) parts.push(`-d '${JSON.stringify(example(body, schemas))}'`);
  parts.push(`${location.origin}${path}`);
  return parts.join(" ");
}

function describe(method, path, operation, schemas) {
  const inside = make("div");
  if (operation.description) inside.append(prose("p", operation.description));
  if (operation.parameters.length) {
    const list = make("dl");
    for (const each of operation.parameters) {
      const kind = each.in === "query" ? "" : ` (${each.in})`;
      list.append(make("dt", { text: each.name + kind }), prose("dd", each.description ?? ""));
    }
    inside.append(make("h3", { text: "Parameters" }), list);
  }
  inside.append(make("h3", { text: "Call" }), make("pre", { text: curlOf(method, path, operation, schemas) }));
  for (const [status, response] of Object.entries(operation.responses)) {
    if (Number(status) >= 400) continue;
    for (const [kind, { schema }] of Object.entries(response.content ?? { "no content": {} })) {
      inside.append(make("h3", { text: `${status}: ${kind}` }));
      if (schema && kind === "application/json") {
        inside.append(make("pre", { text: JSON.stringify(example(schema, schemas), null, 2) }));
      }
    }
  }
  const refusals = Object.keys(operation.responses).filter((status) => Number(status) >= 400);
  if (refusals.length) inside.append(make("p", { className: "quiet", text: `Refusals: ${refusals.join(", ")}` }));
  return make(
    "details",
    {},
    make(
      "summary",
      {},
      make("span", { className: "method", text: method.toUpperCase() }),
      " ",
      make("code", { text: path }),
      " ",
      make("span", { className: "quiet", text: operation.summary }),
    ),
    inside,
  );
}

async function show() {
  const main = document.getElementById("operations");
  const reply = await fetch("openapi.json");
  const api = await reply.json();
  document.getElementById("about").replaceWith(prose("p", api.info.description));
  const schemas = api.components.schemas;
  main.replaceChildren();
  for (const { name } of api.tags) {
    main.append(make("h2", { text: name }));
    for (const [path, methods] of Object.entries(api.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (operation.tags.includes(name)) main.append(describe(method, path, operation, schemas));
      }
    }
  }
}

show().catch(() => {
  document.getElementById("operations").textContent = "openapi.json could not be read.";
});
