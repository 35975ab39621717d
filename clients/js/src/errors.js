// What goes wrong, as objects: `code` and `reason` for programs, `message` for people.

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

/** An error of the server in words for people: its own where they are meant for people. */
export function inWords({ code = "", message = "" }) {
  const known = BY_CODE[code] ?? "Something went wrong on the server. Try again in a moment.";
  if (!message || code === "INTERNAL" || code === "UNKNOWN" || INNER.test(message)) return known;
  return message.charAt(0).toUpperCase() + message.slice(1);
}

/**
 * A refusal, or a failure on the way. `code` is a gRPC code's name ("" where nobody answered), `reason`
 * a word of the server's table, `status` the HTTP one, 0 where there was none.
 */
export class SightlineError extends Error {
  constructor(message, { status = 0, code = "", reason = "", retry_after_s, turn = "", watch = "" } = {}) {
    super(message);
    this.name = "SightlineError";
    Object.assign(this, { status, code, reason, retry_after_s, turn, watch });
  }

  /** What an `error` event says. */
  static of(event) {
    return new SightlineError(inWords(event), event);
  }

  /** What a response other than a good one says. */
  static async ofResponse(response) {
    const detail = await response.json().catch(() => ({})); // a proxy's has no JSON: its status must do
    const text = detail.message ? inWords(detail) : BY_STATUS[response.status] || `The server answered ${response.status}.`;
    return new SightlineError(text, { ...detail, status: response.status });
  }
}
