// A program that uses all of the package, for its types to hold.

import { Camera, Player, Sightline, SightlineError, Speech, Voice } from "sightline-live";
import type { contract, ServerEvent } from "sightline-live";

const server = new Sightline("http://localhost:8080", { token: () => "sl_key" });

export async function main(video: HTMLVideoElement): Promise<string> {
  const info: contract.GetServerInfoResponse = await server.info();
  const { id } = await server.create({ source: "clip.mp4", options: { loop: true, fps: 2 } });
  await server.create({ push: {}, model: info.models?.[0]?.name });
  let text = "";
  for await (const piece of server.ask(id, "What is there?", { max_tokens: 20 })) text += piece;
  for await (const { active, score } of server.watch(id, "a phone", { interval_s: 1 })) {
    const known: boolean | undefined = active;
    text += `${known} ${score?.toFixed(2)}`;
  }
  const [decision] = await server.decide(id, "a phone is there", { statement: "it is {}", levels: ["calm", "hurried"] });
  text += decision?.probability?.toFixed(2) ?? (await server.update(id, { fps: 2 })).name;
  text += (await server.memory(id, { text: "phone", from: -60 })).moments?.[0]?.line ?? (await server.transcript(id))[0]?.text;
  const { rule } = await server.rules.create(id, { name: "phones", predicate: { condition: "a phone is there" }, severity: "SEVERITY_WARNING" });
  for await (const { event, active } of server.rules.everyEvent({ rule })) {
    if (active && event) await server.rules.acknowledge(event, "seen");
  }
  const check: contract.RuleCheck | undefined = (await server.rules.get(rule)).state?.check;
  text += check?.probability ?? (await server.rules.table({ session: id, unacknowledged: true }));
  const connection = server.connect(id, { speech: true, patience_s: 10 });
  const speech = new Speech();
  connection.addEventListener("audio_chunk", ({ detail }) => speech.play(detail));
  connection.addEventListener("state", () => (text += connection.state));
  speech.addEventListener("played", ({ detail }) => connection.send({ playback_ack: detail }));
  const said = ({ kind }: ServerEvent) => kind;
  for await (const event of connection.events()) {
    if (event.kind === "text_delta") text += event.text;
    if (event.kind === "session_state") text += event.stats?.fps_in;
    text += said(event);
  }
  await new Voice().start(connection, "hold");
  await new Camera(server, { screen: true }).start();
  await new Player(server, video).open(id, { iceServers: info.ice_servers, sound: true });
  try {
    return (await connection.ask(text).result()).text ?? "";
  } catch (error) {
    if (error instanceof SightlineError && error.code === "NOT_FOUND") return error.reason;
    throw error;
  }
}

// @ts-expect-error a session comes from somewhere
server.create({ options: {} });
// @ts-expect-error what the server says of a rule is not said to it
server.rules.create("kitchen", { predicate: { condition: "x" }, created_ns: "1" });
// @ts-expect-error there is no such mode
new Voice().start(server.connect("x"), "loud");
// @ts-expect-error there is no such code
new SightlineError("x", { code: "NOTFOUND" });
