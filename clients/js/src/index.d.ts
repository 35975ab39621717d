// The types of this package. `contract` has the messages that travel, as JSON carries them.

import type * as contract from "./contract.js";
export type * as contract from "./contract.js";

/** A gRPC code's name; "" where nobody answered. */
export type Code =
  | ""
  | "CANCELLED"
  | "UNKNOWN"
  | "INVALID_ARGUMENT"
  | "DEADLINE_EXCEEDED"
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "PERMISSION_DENIED"
  | "RESOURCE_EXHAUSTED"
  | "FAILED_PRECONDITION"
  | "ABORTED"
  | "OUT_OF_RANGE"
  | "UNIMPLEMENTED"
  | "INTERNAL"
  | "UNAVAILABLE"
  | "DATA_LOSS"
  | "UNAUTHENTICATED";

/** A refusal, or a failure on the way; `message` can be shown to people. */
export class SightlineError extends Error {
  constructor(message: string, about?: Partial<Omit<SightlineError, keyof Error>>);
  /** The HTTP status; 0 where there was none. */
  readonly status: number;
  readonly code: Code;
  /** A word of the server's table of reasons, e.g. "SESSION_NOT_FOUND"; "" without one. */
  readonly reason: string;
  /** Trying again makes sense after so long. */
  readonly retry_after_s?: number;
  /** What it is about, where it is about one. */
  readonly turn: string;
  readonly watch: string;
}

/** An error of the server in words for people. */
export function inWords(error: { code?: string; message?: string }): string;

/** A session as a request for one has it. */
export type NewSession = { options?: contract.SessionOptions; model?: string; request_id?: string } & (
  | { source: string }
  | { push: contract.Push }
);
export type Wishes = Omit<contract.Question, "turn" | "text"> & { turn?: string };
export type Timing = Omit<contract.Watch, "watch" | "condition"> & { watch?: string };

export interface ClientOptions {
  /** What the server knows the caller by, or what gives it. */
  token?: string | (() => string);
  /** Asks for another token when one was refused, and says whether there is one now. */
  signIn?: ((refused: string) => Promise<boolean>) | null;
}

/** A server, by its HTTP API and the WebSockets of its sessions. Whatever fails throws a SightlineError. */
export class Sightline {
  constructor(url: string | URL, options?: ClientOptions);
  readonly url: URL;
  readonly rules: Rules;
  info(): Promise<contract.GetServerInfoResponse>;
  sessions(): Promise<contract.Session[]>;
  /** By id, or by name where that is unique. */
  session(id: string): Promise<contract.Session>;
  create(wanted: NewSession): Promise<contract.Session & { id: string }>;
  /** Changes a session while it runs; what is left out stays. */
  update(id: string, changes: Omit<contract.UpdateSessionRequest, "session">): Promise<contract.Session>;
  remove(id: string): Promise<void>;
  /** How likely statements hold now, in their order. */
  decide(id: string, ...statements: (string | contract.DecideQuestion)[]): Promise<contract.Decision[]>;
  /** A page of what is remembered, the newest first; times in seconds. */
  memory(id: string, wanted?: { text?: string; from?: number; to?: number; page_size?: number; page_token?: string }): Promise<contract.GetMemoryResponse>;
  /** What was said in its video, the oldest first; times in seconds, below 0 before the newest. */
  transcript(id: string, wanted?: { from?: number; to?: number }): Promise<contract.Said[]>;
  /** The largest file that may be handed over, in bytes; 0: none. */
  largestUpload(): Promise<number>;
  upload(file: Blob, name: string): Promise<contract.Session & { id: string }>;
  /** The newest picture as JPEG; null where there is none yet. */
  picture(id: string, options?: { width?: number; signal?: AbortSignal }): Promise<Blob | null>;
  /** The picture of a moment that a session remembers, of an answer's `memory`. */
  moment(id: string, moment: string): Promise<Blob>;
  /** A conversation, on a connection that comes back by itself until it is closed. */
  connect(id: string, options?: ConnectionOptions): Connection;
  /** One question, on a connection of its own. */
  ask(id: string, question: string, wishes?: Wishes): Answer;
  /** A standing question, on a connection of its own. */
  watch(id: string, condition: string, timing?: Timing): Watch;
  /** All that a session tells, until the reader leaves. */
  events(id: string): AsyncGenerator<ServerEvent, void, undefined>;
  /** What was said in a conversation, oldest first. */
  rounds(conversation: string): Promise<contract.Round[]>;
  /** Removes every trace of a conversation. */
  forget(conversation: string): Promise<void>;
  /** A request of the HTTP API, for what has no method here. */
  request(
    path: string,
    options?: {
      method?: string;
      json?: unknown;
      body?: BodyInit;
      headers?: Record<string, string>;
      signal?: AbortSignal;
      timeout_ms?: number;
      keepalive?: boolean;
    },
  ): Promise<Response>;
  /** Keeps with a turn whether its answer is good ("" for neither) and what would be better. */
  rate(conversation: string, turn: string, rating: "up" | "down" | "", better?: string): Promise<void>;
}

/** A rule as a request for one has it: one kind, and what else is to be otherwise than usual. */
export type NewRule = Omit<contract.Rule, "rule" | "session" | "session_name" | "created_ns" | "state">;
export type EventsWanted = Omit<contract.ListEventsRequest, "page_size" | "page_token">;

/** Standing rules, which go on when nobody looks, their events, and where those are sent. */
export interface Rules {
  /** Of a session, by id or name, or of all; the oldest first. */
  all(session?: string): Promise<contract.Rule[]>;
  /** By id, or by name where that is unique. */
  get(rule: string): Promise<contract.Rule>;
  create(session: string, rule: NewRule): Promise<contract.Rule & { rule: string }>;
  /** Pauses it, resumes it, or changes when it tells. What is left out stays; a `threshold` or an `interval_s` below 0 are those of its kind, an empty `schedule` is always. */
  update(rule: string, changes: Omit<contract.UpdateRuleRequest, "rule">): Promise<contract.Rule>;
  /** Ends a rule; its events stay. */
  delete(rule: string): Promise<void>;
  /** A page of events, the newest first. */
  events(wanted?: contract.ListEventsRequest): Promise<contract.ListEventsResponse>;
  /** All events there are, the newest first. */
  everyEvent(wanted?: EventsWanted): AsyncGenerator<contract.RuleEvent, void, undefined>;
  /** All events there are as CSV with a heading. */
  table(wanted?: EventsWanted): Promise<string>;
  /** The first acknowledgement holds. */
  acknowledge(event: string, note?: string): Promise<contract.RuleEvent>;
  /** JPEG of an event's moment. */
  picture(event: string): Promise<Blob>;
  /** MP4 of the seconds before and after it. */
  clip(event: string): Promise<Blob>;
  webhooks(): Promise<contract.Webhook[]>;
  /** This reply alone has the `secret` that events are signed with. */
  createWebhook(webhook: Pick<contract.Webhook, "severity" | "session"> & { url: string }): Promise<contract.Webhook>;
  deleteWebhook(webhook: string): Promise<void>;
  /** Events that an address did not take, and why; the newest first. */
  deadLetters(webhook: string): Promise<{ event: string; reason: string }[]>;
}

/** What reload of a page needs to go on with a connection. */
export interface Line {
  handle: string;
  sequence: number;
}
export interface ConnectionOptions {
  /** Answers are spoken: `Speech` plays them. */
  speech?: boolean;
  /** The id of an earlier conversation, which goes on. */
  conversation?: string;
  line?: Line | null;
  /** Without a connection for so long it is closed, and all that is open on it fails. */
  patience_s?: number;
}

type Kinds = Omit<contract.ServerEvent, "sequence">;
/** One event of the server: its kind, and its fields. */
export type ServerEvent = { [Kind in keyof Kinds]-?: { kind: Kind } & NonNullable<Kinds[Kind]> }[keyof Kinds];

type Listening<Events> = {
  addEventListener<Kind extends keyof Events & string>(
    kind: Kind,
    listener: (event: Events[Kind]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Kind extends keyof Events & string>(kind: Kind, listener: (event: Events[Kind]) => void): void;
};
interface Emits<Events> extends Listening<Events> {
  dispatchEvent(event: Event): boolean;
}

/** Fires "state", and one event per kind of the server's, with the message as detail. */
export interface Connection extends Emits<{ state: Event } & { [Kind in keyof Kinds]-?: CustomEvent<NonNullable<Kinds[Kind]>> }> {}
export class Connection {
  constructor(client: Sightline, session: string, options?: ConnectionOptions);
  readonly session: string;
  /** The conversation's id; "" until the server has told it. */
  conversation: string;
  readonly speech: boolean;
  readonly state: "connecting" | "open" | "lost" | "closed";
  /** Why it is closed: "gone" (the session), "refused", "away" (the server), or "" where it was closed here. */
  readonly reason: "" | "gone" | "refused" | "away";
  /** When a lost one is tried again, in ms since the epoch. */
  readonly retryAt: number;
  readonly line: Line;
  /** Whether it was open and is not now. */
  readonly away: boolean;
  open(): void;
  close(): void;
  retry(): void;
  setSpeech(speech: boolean): void;
  /** Goes on with a new conversation. */
  startOver(): void;
  ask(question: string, wishes?: Wishes): Answer;
  /** An answer to what the server has heard, and asks by itself. */
  expect(turn: string, question: string): Answer;
  watch(condition: string, timing?: Timing): Watch;
  events(): AsyncGenerator<ServerEvent, void, undefined>;
  /** Sends an event; false where there is no connection now. */
  send(event: contract.ClientEvent): boolean;
}

/** Its text piece by piece with `for await`. Fires "change" as there is more, and "end" once. */
export interface Answer extends Emits<{ change: Event; end: Event }> {}
export class Answer implements AsyncIterable<string> {
  private constructor();
  readonly turn: string;
  readonly question: string;
  /** What is written until now. */
  readonly text: string;
  readonly state: "asked" | "answering" | "done" | "failed" | "cancelled";
  /** What it waits for, if for anything. */
  readonly waits: "" | "connection" | "server" | "model";
  /** Its text began anew, for its worker was lost. */
  readonly restarted: boolean;
  readonly ended: boolean;
  readonly done: contract.AnswerDone | null;
  readonly error: SightlineError | null;
  cancel(): void;
  /** Waits for the end. */
  result(): Promise<contract.AnswerDone>;
  [Symbol.asyncIterator](): AsyncGenerator<string, void, undefined>;
}

/** Its events with `for await`, which ends it when it leaves. Fires "event", "change" and "end". */
export interface Watch extends Emits<{ event: CustomEvent<contract.WatchEvent>; change: Event; end: Event }> {}
export class Watch implements AsyncIterable<contract.WatchEvent> {
  private constructor();
  readonly id: string;
  readonly condition: string;
  readonly request: contract.Watch;
  /** Whether it holds; null until that is known. */
  readonly active: boolean | null;
  /** Of its last check that was told, about every two seconds; null before the first. */
  readonly status: contract.WatchStatus | null;
  readonly ended: boolean;
  /** Why the server ended it. */
  readonly error: SightlineError | null;
  remove(): void;
  [Symbol.asyncIterator](): AsyncGenerator<contract.WatchEvent, void, undefined>;
}

/** Publishes this browser's camera, or its screen, by WHIP, as a session of its own. Fires "change" and "broke". */
export interface Camera extends Emits<{ change: Event; broke: CustomEvent<string> }> {}
export class Camera {
  constructor(client: Sightline, options?: { screen?: boolean });
  readonly state: "off" | "starting" | "on";
  iceServers: contract.IceServer[];
  readonly inUse: string;
  /** Asks for the camera, and publishes it. */
  start(): Promise<contract.Session & { id: string }>;
  stop(): void;
  cameras(): Promise<MediaDeviceInfo[]>;
  /** Shows another camera from here on. */
  use(device: string): Promise<void>;
}

/** Plays a session in a video element, by WHEP. Fires "playing" and "broke". */
export interface Player extends Emits<{ playing: Event; broke: Event }> {}
export class Player {
  constructor(client: Sightline, video: HTMLVideoElement);
  readonly sound: boolean;
  open(id: string, options?: { iceServers?: contract.IceServer[]; sound?: boolean }): Promise<unknown>;
  close(): void;
}

/** The microphone, on its way to a session. Fires "change", and "broke" with words for people. */
export interface Voice extends Emits<{ change: Event; broke: CustomEvent<string> }> {}
export class Voice {
  constructor();
  readonly mode: "off" | "hands_free" | "hold";
  readonly open: boolean;
  start(connection: Connection, mode: "hands_free" | "hold"): Promise<void>;
  stop(): void;
}

/** Plays spoken answers. Fires "change", and "played" with how much of a turn was heard. */
export interface Speech extends Emits<{ change: Event; played: CustomEvent<{ turn: string; played_s: number }> }> {}
export class Speech {
  constructor();
  readonly turn: string;
  readonly speaking: boolean;
  /** Call it from a click or a key: browsers let no page make sound before one. */
  unlock(): Promise<void>;
  begin(turn: string): void;
  play(chunk: contract.SpeechChunk): void;
  pause(turn: string): void;
  resume(): void;
  stop(): void;
}

/** Makes a button one that is held, by pointer or by the keys that press a button. Both may be called again. */
export function holdable(button: HTMLElement, press: () => void, release: () => void): void;
