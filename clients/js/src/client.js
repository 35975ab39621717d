// A Sightline server, by its HTTP API and the WebSocket of a session.

import { Connection } from "./connection.js";
import { SightlineError } from "./errors.js";
import { Rules } from "./rules.js";

const DEADLINE_MS = 15_000;
const CREATION_MS = 30_000;
const UPLOAD_MS = 3_600_000;
const PREVIEW_MS = 5000;
const PATIENCE_S = 30; // without a connection, of what has one of its own

export class Sightline {
  #token;
  #signIn;

  /**
   * `token`: what the server knows the caller by, or a function that gives it; `signIn(refused)`: asks
   * for another when one was refused, and says whether there is one now.
   */
  constructor(url, { token = "", signIn = null } = {}) {
    this.url = new URL(url, globalThis.document?.baseURI);
    if (!this.url.pathname.endsWith("/")) this.url.pathname += "/";
    this.#token = typeof token === "function" ? token : () => token;
    this.#signIn = signIn;
    this.rules = new Rules(this);
  }

  /** Whether somebody can be asked for a token. */
  get asksForToken() {
    return this.#signIn !== null;
  }

  // --- the server and its sessions ----------------------------------------------------------

  info() {
    return this.#json("api/info");
  }

  async sessions() {
    return (await this.#json("api/sessions")).sessions ?? [];
  }

  session(id) {
    return this.#json(path(id));
  }

  /** Watches a video: `{source}` or `{push: {}}`, `options` and `model` as the contract has them. */
  create(wanted) {
    return this.#json("api/sessions", { method: "POST", json: wanted, timeout_ms: CREATION_MS });
  }

  /** Changes a session while it runs: `{name, fps, window, grace_s, labels, listen, delegate, delegate_to}`; what is left out stays. */
  update(id, changes) {
    return this.#json(path(id), { method: "PATCH", json: changes });
  }

  async remove(id) {
    await this.request(path(id), { method: "DELETE" });
  }

  /** How likely statements about a session hold now: strings, or `{statement, choices}` and `{statement, levels}`. */
  async decide(id, ...statements) {
    const questions = statements.map((each) => (typeof each === "string" ? { statement: each } : each));
    return (await this.#json(`${path(id)}/decide`, { method: "POST", json: { questions }, timeout_ms: CREATION_MS })).decisions ?? [];
  }

  /** A page of what is remembered beyond the window, the newest first: `{text, from, to, page_size, page_token}`, times in seconds. */
  memory(id, wanted = {}) {
    return this.#json(`${path(id)}/memory?${queryOf(wanted)}`);
  }

  /** What was said in its video, the oldest first, where it listens: `{from, to}` in seconds; below 0: before the newest. */
  async transcript(id, wanted = {}) {
    return (await this.#json(`${path(id)}/transcript?${queryOf(wanted)}`)).said ?? [];
  }

  /** The largest file that may be handed over, in bytes; 0: none. */
  async largestUpload() {
    return Number((await this.#json("api/uploads")).file_bytes ?? 0);
  }

  /** Hands a video file (a Blob) over; the session that plays it, again and again. */
  upload(file, name) {
    const headers = { "Content-Type": "application/octet-stream" };
    return this.#json(`api/uploads?loop=1&name=${encodeURIComponent(name)}`, { method: "POST", body: file, headers, timeout_ms: UPLOAD_MS });
  }

  /** The newest picture of a session, `width` pixels wide, as a Blob; null where there is none yet. */
  async picture(id, { width = 0, signal } = {}) {
    const response = await this.request(`${path(id)}/preview.jpg?width=${width}`, { signal, timeout_ms: PREVIEW_MS });
    return response.status === 204 ? null : response.blob();
  }

  /** The picture of a moment that a session remembers, as a Blob. */
  async moment(id, moment) {
    return (await this.request(`${path(id)}/memory/${encodeURIComponent(moment)}.jpg`)).blob();
  }

  // --- conversations ------------------------------------------------------------------------

  /** A viewer's connection to a session; it comes back by itself. */
  connect(id, options = {}) {
    if (!globalThis.WebSocket) throw new SightlineError("There is no WebSocket here: Node.js 22 or later has one.");
    const connection = new Connection(this, id, options);
    connection.open();
    return connection;
  }

  /** One question about what a session sees, over a connection of its own. */
  ask(id, question, options = {}) {
    const connection = this.connect(id, { patience_s: PATIENCE_S });
    const answer = connection.ask(question, options);
    answer.addEventListener("end", () => connection.close(), { once: true });
    return answer;
  }

  /** A standing question, over a connection of its own, which ends with it. */
  watch(id, condition, options = {}) {
    const connection = this.connect(id, { patience_s: PATIENCE_S });
    const watch = connection.watch(condition, options);
    watch.addEventListener("end", () => connection.close(), { once: true });
    return watch;
  }

  /** All that a session tells, over a connection of its own, until the reader leaves. */
  async *events(id) {
    const connection = this.connect(id, { patience_s: PATIENCE_S });
    try {
      yield* connection.events();
    } finally {
      connection.close();
    }
  }

  /** What was said in a conversation, oldest first; none where nothing is known of it. */
  async rounds(conversation) {
    const rounds = [];
    let token = "";
    try {
      do {
        const page = await this.#json(`${conversationPath(conversation)}?page_size=1000&page_token=${token}`);
        rounds.push(...(page.rounds ?? []));
        token = page.next_page_token ?? "";
      } while (token);
    } catch (error) {
      if (error.status !== 404 && error.reason !== "CONVERSATIONS_NOT_CONFIGURED") throw error;
    }
    return rounds;
  }

  /** Removes every trace of a conversation. */
  async forget(conversation) {
    await this.request(conversationPath(conversation), { method: "DELETE" });
  }

  /** Keeps with a turn whether its answer is good ("up", "down", "" for neither) and what would be better. */
  async rate(conversation, turn, rating, better = "") {
    const json = { rating: `RATING_${rating.toUpperCase() || "UNSPECIFIED"}`, better };
    await this.request(`${conversationPath(conversation)}/turns/${encodeURIComponent(turn)}/rating`, { method: "PUT", json });
  }

  // --- what the other files of this package are made of --------------------------------------

  /** Sends an SDP offer by WHIP or WHEP, to a path or an address. The answer, and the path that ends it. */
  async offer(to, sdp) {
    const { pathname } = new URL(to, this.url); // the server's own name for itself may be another than ours
    const response = await this.request(pathname, { method: "POST", body: sdp, headers: { "Content-Type": "application/sdp" } });
    const location = new URL(response.headers.get("Location") ?? pathname, new URL(pathname, this.url));
    return { answer: await response.text(), location: location.pathname };
  }

  /** Ends what an offer began, also while the page goes. */
  async hangUp(location) {
    await this.request(location, { method: "DELETE", keepalive: true });
  }

  /** A new WebSocket of a session. */
  socket(id) {
    const address = new URL(`${path(id)}/converse`, this.url);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const token = this.#token();
    if (!token) return new WebSocket(address.href);
    const text = btoa(token).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
    return new WebSocket(address.href, ["sightline", `sightline.token.${text}`]); // browsers give it no header
  }

  async #json(where, options) {
    return (await this.request(where, options)).json();
  }

  /**
   * A request of the HTTP API, for what has no method here: its Response. `json`: a body, instead of `body`.
   * Throws a SightlineError where that is no good one.
   */
  async request(where, options = {}) {
    for (;;) {
      const sent = this.#token();
      try {
        return await this.#once(where, options);
      } catch (error) {
        if (!error.reason?.startsWith("TOKEN_") || !(await this.#signIn?.(sent))) throw error;
      }
    }
  }

  async #once(where, { method = "GET", json, body, headers = {}, signal, timeout_ms = DEADLINE_MS, keepalive = false }) {
    const deadline = AbortSignal.timeout(timeout_ms);
    const address = new URL(where, this.url);
    const token = /^\/(api|whep)\//.test(address.pathname.replace(this.url.pathname, "/")) ? this.#token() : ""; // a publisher's key is in its path
    let response;
    try {
      response = await fetch(address, {
        method,
        keepalive,
        body: json === undefined ? body : JSON.stringify(json),
        headers: {
          ...(json === undefined ? {} : { "Content-Type": "application/json" }),
          ...(token ? { Authorization: `Bearer ${token}` } : {}),
          ...headers,
        },
        signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
        cache: "no-store",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new SightlineError(deadline.aborted ? "The server did not answer in time." : "The server cannot be reached.");
    }
    if (!response.ok) throw await SightlineError.ofResponse(response);
    return response;
  }
}

const queryOf = (wanted) => new URLSearchParams(Object.entries(wanted).filter(([, value]) => value));
const path = (id) => `api/sessions/${encodeURIComponent(id)}`;
const conversationPath = (id) => `api/conversations/${encodeURIComponent(id)}`;
