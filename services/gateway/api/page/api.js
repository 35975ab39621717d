// The gateway's HTTP API. Every failure becomes an ApiError whose message can be shown as it is.

import { authorization, signIn, subprotocols, token } from "./sign_in.js";

export class ApiError extends Error {
  constructor(message, { status = 0, code = "", reason = "" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.reason = reason;
  }
}

const BY_STATUS = {
  401: "The key is wrong or missing.",
  404: "It no longer exists.",
  413: "That is too large.",
  429: "The server has no room for this now. Remove a session, or try again later.",
  502: "A part of the server is away. Try again in a moment.",
  503: "A part of the server is away. Try again in a moment.",
  504: "The server took too long. Try again.",
};

// What transport layers say means nothing to viewers, and tells where inside the server it was said.
const INNER = /ipv[46]:|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+:[0-9]+|failed to connect|connection (refused|reset)|socket|rpc|recvmsg|goaway|deadline|stream (removed|broke)|endpoint|unhandled|traceback/i;
const BY_CODE = {
  UNAVAILABLE: "The model is restarting, about 20 s.",
  DEADLINE_EXCEEDED: "That took too long. Try again.",
  RESOURCE_EXHAUSTED: BY_STATUS[429],
  CANCELLED: "It was cancelled.",
};

/** An error of the server in words for viewers: its own where they are meant for people. */
export function inWords({ code = "", message = "" }) {
  const known = BY_CODE[code] ?? "Something went wrong on the server. Try again in a moment.";
  if (!message || code === "INTERNAL" || code === "UNKNOWN" || INNER.test(message)) return known;
  return message.charAt(0).toUpperCase() + message.slice(1);
}

const DEADLINE_MS = 15_000;

async function request(path, options = {}) {
  for (;;) {
    const sent = token();
    try {
      return await requestOnce(path, options);
    } catch (error) {
      if (!error.reason?.startsWith("TOKEN_") || !(await signIn(sent))) throw error;
    }
  }
}

async function requestOnce(path, { method = "GET", json, body, headers = {}, signal, timeout_ms = DEADLINE_MS, keepalive = false }) {
  const deadline = AbortSignal.timeout(timeout_ms);
  let response;
  try {
    response = await fetch(path, {
      method,
      keepalive,
      body: json === undefined ? body : JSON.stringify(json),
      headers: {
        ...(json === undefined ? {} : { "Content-Type": "application/json" }),
        ...(/^\/?(api|whep)\//.test(path) ? authorization() : {}), // a publisher's key is in its path
        ...headers,
      },
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
      cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    if (deadline.aborted) throw new ApiError("The server did not answer in time.");
    throw new ApiError("The server cannot be reached.");
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  let detail = {};
  try {
    detail = JSON.parse(text);
  } catch {
    // an answer without a JSON body: its status must do
  }
  const status = BY_STATUS[response.status] || `The server answered ${response.status}.`;
  const message = detail.message ? inWords(detail) : status;
  throw new ApiError(message, { status: response.status, code: detail.code ?? "", reason: detail.reason ?? "" });
}

const json = async (path, options) => (await request(path, options)).json();
const session = (id) => `api/sessions/${encodeURIComponent(id)}`;

export const getInfo = () => json("api/info");
export const listSessions = async () => (await json("api/sessions")).sessions ?? [];
export const getSession = (id) => json(session(id));
export const createSession = (body) => json("api/sessions", { method: "POST", json: body, timeout_ms: 30_000 });
export const largestUpload = async () => (await json("api/uploads")).file_bytes;
export const upload = (file, name) =>
  json(`api/uploads?loop=1&name=${encodeURIComponent(name)}`, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" }, timeout_ms: 3_600_000 });
export const deleteSession = (id, options = {}) => request(session(id), { method: "DELETE", ...options });

const conversation = (id) => `api/conversations/${encodeURIComponent(id)}`;

/** What was said in a conversation, oldest first; none where nothing is known of it. */
export async function roundsOf(id) {
  const rounds = [];
  let token = "";
  try {
    do {
      const page = await json(`${conversation(id)}?page_size=1000&page_token=${token}`);
      rounds.push(...(page.rounds ?? []));
      token = page.next_page_token ?? "";
    } while (token);
  } catch (error) {
    if (error.status !== 404 && error.reason !== "CONVERSATIONS_NOT_CONFIGURED") throw error;
  }
  return rounds;
}

export const forgetConversation = (id) => request(conversation(id), { method: "DELETE" });

/** Keeps with a turn whether its answer is good ("up", "down", "" for neither) and what would be better. */
export const rateTurn = (id, turn, rating, better = "") =>
  request(`${conversation(id)}/turns/${encodeURIComponent(turn)}/rating`, { method: "PUT", json: { rating: `RATING_${rating.toUpperCase() || "UNSPECIFIED"}`, better } });

/** The newest picture of a session, `width` pixels wide, as a Blob; null where there is none yet. */
export async function previewOf(id, width, signal) {
  const response = await request(`${session(id)}/preview.jpg?width=${width}`, { signal, timeout_ms: 5000 });
  return response.status === 204 ? null : response.blob();
}

/** The picture of a moment that a session remembers, as a Blob. */
export const momentPicture = async (id, moment) => (await request(`${session(id)}/memory/${encodeURIComponent(moment)}.jpg`)).blob();

/** Publishes an SDP offer by WHIP. Returns the answer and the path that ends it. */
export async function publish(path, offer) {
  const response = await request(path, { method: "POST", body: offer, headers: { "Content-Type": "application/sdp" } });
  const location = new URL(response.headers.get("Location") ?? path, new URL(path, document.baseURI));
  return { answer: await response.text(), location: location.pathname };
}

export const unpublish = (path) => request(path, { method: "DELETE", keepalive: true });

/** A new WebSocket of a session. */
export function converse(id) {
  const address = new URL(`${session(id)}/converse`, document.baseURI);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(address.href, subprotocols());
}
