// Names that no other tab, turn or watch uses.

/** An id. `crypto.randomUUID` is missing on plain-http pages. */
export function newId(prefix) {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return `${prefix}-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
