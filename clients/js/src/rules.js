// Standing rules of a server's sessions, the events that they told, and where those are sent.

const PAGE = 1000; // events of one reply, the most

export class Rules {
  #client;

  constructor(client) {
    this.#client = client;
  }

  /** The rules of a session (id or name), or of all; the oldest first. */
  async all(session = "") {
    return (await this.#json(session ? `${ofSession(session)}/rules` : "api/rules")).rules ?? [];
  }

  /** By id, or by name where that is unique. */
  get(rule) {
    return this.#json(`api/rules/${encodeURIComponent(rule)}`);
  }

  /** Watches a session from now on, whoever looks: `{name, predicate: {condition}}` and what else the contract has. */
  create(session, rule) {
    return this.#json(`${ofSession(session)}/rules`, { method: "POST", json: rule });
  }

  /** Changes a rule while it is watched for: `{paused, threshold, interval_s, debounce_s, cooldown_s, schedule, severity, labels}`. */
  update(rule, changes) {
    return this.#json(`api/rules/${encodeURIComponent(rule)}`, { method: "PATCH", json: changes });
  }

  /** Ends a rule; its events stay. */
  async delete(rule) {
    await this.#client.request(`api/rules/${encodeURIComponent(rule)}`, { method: "DELETE" });
  }

  // --- events -------------------------------------------------------------------------------

  /** A page of events, the newest first: `{session, rule, after, unacknowledged, page_size, page_token}`. */
  events(wanted = {}) {
    return this.#json(`api/events?${queryOf(wanted)}`);
  }

  /** All events there are, the newest first. */
  async *everyEvent(wanted = {}) {
    let page_token = "";
    do {
      const page = await this.events({ page_size: PAGE, ...wanted, page_token });
      yield* page.events ?? [];
      page_token = page.next_page_token ?? "";
    } while (page_token);
  }

  /** All events there are as CSV with a heading. */
  async table(wanted = {}) {
    let where = `api/events?${queryOf({ page_size: PAGE, ...wanted })}`;
    let text = "";
    while (where) {
      const response = await this.#client.request(where, { headers: { Accept: "text/csv" } });
      const page = await response.text();
      text += text ? page.slice(page.indexOf("\n") + 1) : page;
      where = /<([^>]*)>; *rel="next"/.exec(response.headers.get("Link") ?? "")?.[1] ?? "";
      if (where) where = new URL(where, response.url).href;
    }
    return text;
  }

  /** Says that somebody has seen an event; the first acknowledgement holds. */
  acknowledge(event, note = "") {
    return this.#json(`${ofEvent(event)}/acknowledge`, { method: "POST", json: { note } });
  }

  /** The picture of an event's moment, as a Blob. */
  async picture(event) {
    return (await this.#client.request(`${ofEvent(event)}/picture`)).blob();
  }

  /** The seconds before and after it, as a Blob. */
  async clip(event) {
    return (await this.#client.request(`${ofEvent(event)}/clip`)).blob();
  }

  // --- webhooks -----------------------------------------------------------------------------

  async webhooks() {
    return (await this.#json("api/webhooks")).webhooks ?? [];
  }

  /** Sends events to an address: `{url, severity, session}`. This reply alone has the `secret` they are signed with. */
  createWebhook(webhook) {
    return this.#json("api/webhooks", { method: "POST", json: webhook });
  }

  async deleteWebhook(webhook) {
    await this.#client.request(`api/webhooks/${encodeURIComponent(webhook)}`, { method: "DELETE" });
  }

  /** Events that an address did not take, `{event, reason}`, the newest first. */
  async deadLetters(webhook) {
    return (await this.#json(`api/webhooks/${encodeURIComponent(webhook)}/dead`)).letters ?? [];
  }

  async #json(where, options) {
    return (await this.#client.request(where, options)).json();
  }
}

const ofSession = (session) => `api/sessions/${encodeURIComponent(session)}`;
const ofEvent = (event) => `api/events/${encodeURIComponent(event)}`;

function queryOf({ unacknowledged = false, ...wanted }) {
  const query = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value));
  if (unacknowledged) query.set("unacknowledged", "1");
  return query;
}
