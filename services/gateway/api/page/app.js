// Wires the page: one room (connection, chat, watches) per session that was opened, the list, the picture
// and the figures of the chosen one.

import { degradation } from "./about.js";
import { Captions } from "./captions.js";
import { Connection, Speech, Voice } from "./client/index.js";
import { Chat } from "./chat.js";
import { byId, confirmed, el, notice, seconds, setText } from "./dom.js";
import { Figures } from "./figures.js";
import { Grid } from "./grid.js";
import { Memory } from "./memory.js";
import { Model, readyModel } from "./model.js";
import { offerPhone } from "./phone.js";
import { Preview } from "./preview.js";
import { offerCameras } from "./publishing.js";
import { Rules } from "./rules.js";
import { server } from "./server.js";
import { kindOf, nameOf, NewSession, SessionList, stateOf, waits } from "./sessions.js";
import { Timeline } from "./timeline.js";
import { offerUploads } from "./uploads.js";
import { Watches } from "./watches.js";

const LIST_MS = 2000;
const CONNECTION_WORDS = { connecting: "connecting …", open: "connected", closed: "not connected" };

const FLAGS = {
  worker_unavailable: "The model is restarting, about 20 s. Then it goes on.",
  rate_lowered: "The model is busy: it is shown fewer frames for now.",
  worker_full: "The model has no room for this session just now.",
  source_failed: "The video broke off.",
  dialogue_unavailable: "Answers come without earlier rounds: the conversation store is away.",
  speech_unavailable: "Answers are not spoken: the speech service is away.",
  unfamiliar_picture: "The picture is unlike those that the model was trained on. Load another model: docs/models.md.",
  fallback_model: "The fallback model answers: the model's own answers degenerate.",
  delegate_unavailable: "Hard questions are answered by the model that watches: the other one does not answer.",
  transcript_unavailable: "What is said in the video is not heard for now: the speech recognition is away.",
  window_lost: "What it saw before was lost with its worker: it remembers from then on.",
};

const PICTURES = {
  SOURCE_CONDITION_DARK: "The picture is dark.",
  SOURCE_CONDITION_COVERED: "The picture is one colour all over: is the lens covered?",
  SOURCE_CONDITION_FROZEN: "The picture is frozen: always the same, without a camera's noise.",
  SOURCE_CONDITION_REPEATING: "The same pictures come over and over.",
};

const rooms = new Map(); // session id → {memory, connection, chat, watches, timeline, rules}
const sessions = new Map();
let chosen = null; // "" once the page has drawn that there is none
let suggested = { questions: [], conditions: [] };

const speech = new Speech();
const voice = new Voice();
let hears = false; // the server does
const preview = new Preview();
const captions = new Captions();
const figures = new Figures();
const publishers = offerCameras({ onCreated: adopt });
const model = new Model();
const list = new SessionList({ onChoose: choose, onRemove: remove });
const grid = new Grid({ onChoose: choose, noticed: (id) => rooms.get(id)?.watches.newest });
const dialog = new NewSession({ onCreated: adopt, models: () => model.info.models ?? [] });

// --- the chosen session -----------------------------------------------------------------------

function choose(id) {
  if (id === chosen) return;
  speech.stop();
  voice.stop();
  captions.clear();
  chosen = id;
  history.replaceState(null, "", id ? `#${encodeURIComponent(id)}` : location.pathname);
  const room = id ? (rooms.get(id) ?? enter(id)) : null;
  byId("chat-room").replaceChildren(room?.chat.node ?? el("p", { class: "empty muted", text: "Choose a session to ask about it." }));
  byId("watches-room").replaceChildren(room?.watches.node ?? el("p", { class: "empty muted", text: "Choose a session to set a watch on it." }));
  byId("timeline-room").replaceChildren(room?.timeline.node ?? el("p", { class: "empty muted", text: "Choose a session to see what happens in it." }));
  byId("rules-room").replaceChildren(room?.rules.node ?? el("p", { class: "empty muted", text: "Choose a session to set a rule for it." }));
  room?.rules.look();
  room?.connection.setSpeech(byId("speech").checked);
  byId("start-over").hidden = !room;
  showConnection();
  showSession();
  showList();
}

function enter(id) {
  const memory = new Memory(id);
  const connection = new Connection(server, id, { speech: byId("speech").checked, line: memory.takeLine(), conversation: memory.conversation });
  const room = {
    memory,
    connection,
    chat: new Chat(connection, memory, speech, voice, suggested.questions),
    watches: new Watches(connection, memory, suggested.conditions),
  };
  room.chat.hears = hears;
  room.timeline = new Timeline(connection, { chat: room.chat, watches: room.watches, records: () => Number(model.info.recording_s ?? 0) > 0 });
  room.rules = new Rules(id, room.timeline, () => model.info.rules === true, suggested.conditions);
  rooms.set(id, room);
  connection.addEventListener("state", () => {
    if (connection.reason === "gone") forget(id, "That session has been removed.");
    else if (id === chosen) {
      showConnection();
      showSession();
    }
  });
  connection.addEventListener("started", ({ detail }) => {
    memory.conversation = connection.conversation;
    note(detail.session);
    if (id === chosen) preview.retry();
  });
  connection.addEventListener("session_state", ({ detail }) => note(detail));
  connection.addEventListener("said", ({ detail }) => id === chosen && captions.show(detail.text));
  recall(room).finally(() => connection.state !== "closed" && connection.open());
  return room;
}

// What was said before the page was loaded, from the server; questions that it has no answer of are
// awaited.
async function recall(room) {
  const { memory, chat, timeline } = room;
  const { conversation } = memory;
  try {
    const rounds = conversation && memory.said ? await server.rounds(conversation) : [];
    if (memory.conversation !== conversation) return;
    chat.restore(rounds, memory.asked);
    for (const { turn, question, asked_ns } of rounds) timeline.add({ at_ns: asked_ns, kind: "answer", text: `asked: ${question}`, show: () => chat.reveal(turn) });
  } catch (error) {
    chat.restore([], memory.asked);
    chat.withhold(error.message, () => recall(room));
  }
}

async function startOver() {
  const room = rooms.get(chosen);
  if (!room || !(await confirmed("Forget all that was said here, on the server, too?"))) return;
  const { conversation } = room.connection;
  room.chat.clear();
  try {
    if (conversation) await server.forget(conversation);
  } catch (error) {
    if (error.reason !== "CONVERSATIONS_NOT_CONFIGURED") return notice(error.message);
  }
  room.connection.startOver();
}

addEventListener("pagehide", () => {
  for (const { memory, connection, chat } of rooms.values()) {
    const { handle, sequence } = connection.line;
    memory.leaveLine({ handle, sequence: chat.mark ?? sequence });
  }
});
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) for (const { memory } of rooms.values()) memory.takeLine();
});

// the newest word about a session, from its connection or from the list
function note(session) {
  if (!session?.id) return;
  sessions.set(session.id, session);
  if (session.id === chosen) showSession(true);
  showList();
}

function adopt(session) {
  note(session);
  choose(session.id);
}

function forget(id, text) {
  rooms.get(id)?.rules.close();
  rooms.get(id)?.connection.close();
  rooms.delete(id);
  sessions.delete(id);
  if (id === chosen) {
    choose("");
    if (text) notice(text, { kind: "plain", for_ms: 6000 });
  }
  showList();
}

async function remove(id) {
  const session = sessions.get(id);
  if (!session || !(await confirmed(`Stop watching “${nameOf(session)}” and forget what was seen?`))) return;
  try {
    await server.remove(id);
  } catch (error) {
    if (error.status !== 404) return notice(error.message);
  }
  new Memory(id).forget();
  forget(id);
}

// --- showing ----------------------------------------------------------------------------------

function showList() {
  const ordered = [...sessions.values()].sort((a, b) => Number(b.created_ns ?? 0) - Number(a.created_ns ?? 0));
  list.show(ordered, chosen);
  grid.show(ordered);
}

function showSession(fresh = false) {
  const session = sessions.get(chosen) ?? null;
  const badge = byId("picture-state");
  badge.hidden = byId("mirror").hidden = !session;
  setText(byId("picture-title"), session ? nameOf(session) : "No session chosen");
  if (session) {
    const [style, text] = rooms.get(chosen)?.connection.away ? ["none", "no word of it"] : stateOf(session);
    setText(badge, text);
    badge.dataset.state = style;
  }
  setText(byId("picture-facts"), session ? facts(session) : "");
  preview.show(session);
  showModel();
  if (fresh || !session) figures.show(session);
}

function facts(session) {
  const text = [kindOf(session) && `From ${kindOf(session)}.`];
  if (session.frame_width) text.push(`The model sees ${session.frame_width} × ${session.frame_height} pixels`);
  if (session.fps && session.window) {
    text.push(`${Number(session.fps).toFixed(session.fps % 1 ? 1 : 0)} times a second, and remembers the last ${session.window} frames (${seconds(session.window / session.fps)}).`);
  }
  if (session.moving && !waits(session)) text.push("It moves to another worker; questions wait until it is there.");
  text.push(PICTURES[session.source_health?.condition]);
  const degraded = session.stats?.degraded ?? [];
  text.push(...degraded.map((flag) => FLAGS[flag] ?? `Its last answer: ${degradation(flag)}.`));
  return text.filter(Boolean).join(" ");
}

let countdown = 0;
function showConnection() {
  clearTimeout(countdown);
  const place = byId("line-state");
  const connection = rooms.get(chosen)?.connection;
  place.dataset.state = connection?.state ?? "none";
  if (connection?.state !== "lost") return setText(place, connection ? CONNECTION_WORDS[connection.state] : "");
  const left = Math.max(0, Math.ceil((connection.retryAt - Date.now()) / 1000));
  place.replaceChildren(`connection lost, trying again${left > 0 ? ` in ${left} s` : ""} `, el("button", { type: "button", class: "quiet", text: "Now", on: { click: connection.retry } }));
  if (left > 0) countdown = setTimeout(showConnection, 1000);
}

// The model of the chosen session or, without one, the one that answers.
function shownModel() {
  const named = sessions.get(chosen)?.model;
  return model.info.models?.find(({ name, ready }) => ready && name === named) ?? readyModel(model.info) ?? {};
}

function showInfo(info) {
  for (const each of [...publishers, preview]) each.iceServers = info.ice_servers ?? [];
  byId("speech").disabled = info.speech === false;
  byId("speech").parentElement.title = info.speech === false ? "This server has no speech service." : "";
  byId("rules").hidden = info.rules !== true;
  hears = info.voice === true;
  byId("hands-free").parentElement.hidden = !hears;
  for (const room of rooms.values()) room.chat.hears = hears;
  showModel();
}

let shown = null;
function showModel() {
  const { name, card = {} } = shownModel();
  if (name === shown) return;
  shown = name;
  setText(byId("model"), name ? `model ${name}` : "");
  if (!name) return; // what it knew is still what it will know
  suggested = { questions: card.questions ?? [], conditions: card.conditions ?? [] };
  for (const room of rooms.values()) {
    room.chat.suggest(suggested.questions);
    room.watches.suggest(suggested.conditions);
    room.rules.form.suggest(suggested.conditions);
  }
  const bullets = (title, lines) => (lines?.length ? [el("h3", { text: title }), el("ul", {}, ...lines.map((text) => el("li", { text })))] : []);
  const place = byId("knows-text");
  place.replaceChildren(...(card.summary ? [el("p", { text: card.summary })] : []), ...bullets("It can tell", card.can), ...bullets("It cannot tell", card.cannot));
  byId("knows").hidden = place.children.length === 0;
}

// --- the list, the start ------------------------------------------------------------------------

let unreachable = false;
async function refresh() {
  try {
    const found = await server.sessions();
    unreachable = false;
    const ids = new Set(found.map((session) => session.id));
    for (const id of sessions.keys()) if (!ids.has(id)) forget(id, "That session has been removed.");
    for (const session of found) if (session.id !== chosen || !rooms.has(chosen)) sessions.set(session.id, session);
    showList();
    if (!chosen && found.length > 0) chooseFirst(found);
  } catch (error) {
    if (!unreachable) notice(error.message, { for_ms: 6000 });
    unreachable = true;
  }
}

function chooseFirst(found) {
  const wanted = decodeURIComponent(location.hash.slice(1));
  const session = found.find(({ id, name }) => id === wanted || name === wanted) ?? found.find(({ state }) => state === "SESSION_STATE_LIVE") ?? found[0];
  choose(session.id);
}

async function keepListing() {
  if (!document.hidden) await refresh();
  setTimeout(keepListing, LIST_MS);
}

byId("mirror").addEventListener("click", ({ target }) => {
  const mirrored = byId("preview").toggleAttribute("data-mirrored");
  target.setAttribute("aria-pressed", String(mirrored));
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which session is chosen
  (byId("question") ?? byId("chat")).focus();
});
byId("start-over").addEventListener("click", startOver);
byId("new-session").addEventListener("click", () => dialog.open());
offerPhone();
offerUploads({ onCreated: adopt, taken: () => [...sessions.values()].map(nameOf) });
byId("speech").addEventListener("change", ({ target }) => {
  if (target.checked) speech.unlock();
  else speech.stop();
  rooms.get(chosen)?.connection.setSpeech(target.checked);
});
byId("hands-free").addEventListener("change", ({ target }) => {
  const connection = rooms.get(chosen)?.connection;
  if (target.checked) speech.unlock();
  if (target.checked && connection) voice.start(connection, "hands_free");
  else voice.stop();
});
voice.addEventListener("change", () => {
  const listens = voice.mode === "hands_free";
  byId("hands-free").checked = listens;
  setText(byId("listens"), listens && !voice.open ? "Opening …" : "Listen"); // what is said before is not heard
});
voice.addEventListener("broke", ({ detail }) => notice(detail));
addEventListener("hashchange", () => {
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (sessions.has(wanted)) choose(wanted);
});

model.addEventListener("info", ({ detail }) => showInfo(detail));
choose(""); // draws the empty rooms
model.watch();
keepListing();
