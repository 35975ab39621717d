// What a session's rules have told, on its timeline. The server keeps it, so it is there after a reload.

import { words } from "./dom.js";
import { server } from "./server.js";

const EVERY_MS = 5000;
const AT_ONCE = 50;

/** Puts events on a timeline for as long as it is shown. `enabled()`: whether the server has rules. */
export function followRules(session, timeline, enabled) {
  let newest = "";
  async function look() {
    if (document.hidden || !timeline.node.isConnected || !enabled()) return;
    const query = new URLSearchParams({ session, page_size: AT_ONCE, after: newest });
    const { events = [] } = await (await server.request(`api/events?${query}`)).json();
    for (const event of events) timeline.add(momentOf(event));
    newest = events[0]?.event ?? newest;
  }
  const timer = setInterval(() => look().catch(() => {}), EVERY_MS); // the list of sessions says what is wrong
  return () => clearInterval(timer);
}

function momentOf({ event, rule_name, kind, active = false, value = "", text = "", probability = 0, time_ns, picture = false, clip = false }) {
  const told = text || value.replace("SOURCE_CONDITION_", "").toLowerCase() || (active ? "it holds now" : "it holds no more");
  const sure = probability > 0 && !text ? ` (${Math.round(100 * probability)} %)` : "";
  const place = `api/events/${encodeURIComponent(event)}`;
  return {
    at_ns: time_ns,
    kind: active || text || kind === "choice" ? "on" : "off",
    text: `${rule_name || words(kind)}: ${told}${sure}`,
    picture: picture ? `${place}/picture` : "",
    clip: clip ? `${place}/clip` : "",
  };
}
