// A program of Node that converses. It says what it has found, a line of JSON each, and goes on when it is
// told to.

import { createInterface } from "node:readline";
import { Sightline, SightlineError } from "../../clients/js/src/index.js";

const [url, source, condition] = process.argv.slice(2);
const reader = createInterface({ input: process.stdin });
const lines = reader[Symbol.asyncIterator]();
const say = (value) => console.log(JSON.stringify(value));
const told = () => lines.next();

const server = new Sightline(url);
const info = await server.info();
say(info.models[0].name);
const session = await server.create({ source, options: { loop: true, name: "node" } });

const pieces = [];
for await (const piece of server.ask(session.id, "What is in the scene?")) pieces.push(piece);
say(pieces);

const connection = server.connect(session.id);
const first = connection.ask("What is in the scene?");
const done = await first.result();
say([first.state, first.text === done.text, done.frames_seen > 0, connection.conversation !== ""]);
say(await server.rounds(connection.conversation).then((rounds) => rounds.map(({ question }) => question)));

for await (const event of connection.watch(condition, { interval_s: 0 })) {
  say([event.condition, event.active, event.score > 0.5]);
  break;
}

connection.addEventListener("state", () => connection.state === "lost" && say("lost"), { once: true });
say("cut it");
await told();
const asked = connection.ask("How many objects are there?");
say([asked.state, asked.waits]);
say("mend it");
await told();
const after = await asked.result();
say([asked.state, asked.waits, after.history_rounds]);

const cancelled = connection.ask("What is in the scene?");
cancelled.cancel();
say((await cancelled.result()).finish_reason);

for await (const { kind, id } of server.events(session.id)) {
  if (kind !== "session_state") continue;
  say(id === session.id);
  break;
}
const picture = await server.picture(session.id, { width: 320 });
say([picture.type, picture.size > 1000]);

const decided = await server.decide(session.id, condition, { statement: "there are {} objects", levels: ["no", "some"] });
say(decided.map(({ probability, probabilities = [] }) => [probability >= 0, probabilities.length]));
const changed = await server.update(session.id, { fps: 2, labels: { labels: { room: "hall" } } });
say([changed.fps, changed.labels]);
say((await server.memory(session.id, { text: "circle" })).moments ?? []);
say(await server.transcript(session.id).catch(({ code }) => code));

for (const broken of [() => server.session("nobody"), () => server.ask("nobody", "Who?").result()]) {
  const error = await broken().catch((thrown) => thrown);
  say([error instanceof SightlineError, error.code]);
}
await server.remove(session.id);
while (connection.state !== "closed") await new Promise((resolve) => connection.addEventListener("state", resolve, { once: true }));
const error = await connection.ask("Still there?").result().catch((thrown) => thrown);
say([error.code, connection.reason]);
reader.close(); // nothing else keeps the program
