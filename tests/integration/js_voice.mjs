// A microphone in Node, with stand-ins for what browsers have: what reaches a connection that breaks?
// It says what was sent, as JSON.

import { Voice } from "../../clients/js/src/voice.js";

let port;
globalThis.AudioContext = class {
  sampleRate = 16_000;
  audioWorklet = { addModule: async () => {} };
  createMediaStreamSource = () => ({ connect() {} });
  resume = async () => {};
  close() {}
};
globalThis.AudioWorkletNode = class {
  constructor() {
    this.port = port = {};
  }
};
const track = { addEventListener() {}, stop() {} };
const devices = { getUserMedia: async () => ({ getTracks: () => [track] }) };
Object.defineProperty(globalThis, "navigator", { value: { mediaDevices: devices } });

class Line extends EventTarget {
  state = "open";
  sent = [];
  send(event) {
    const open = this.state === "open";
    if (open) this.sent.push(event.listen ? event.listen.mode.slice(12) : Buffer.from(event.audio_chunk.pcm, "base64").readInt16LE());
    return open;
  }
  comeBack() {
    this.state = "open";
    this.sent = [];
    this.dispatchEvent(new Event("started"));
    return this.sent;
  }
  words() {
    this.dispatchEvent(new CustomEvent("transcript", { detail: { turn: "voice-1", final: true } }));
  }
}
const line = new Line();
const voice = new Voice();
const hear = (piece) => port.onmessage({ data: new Int16Array([piece]) });
const told = {};

// What was sent may have been lost with the connection, too.
await voice.start(line, "hands_free");
hear(1);
line.state = "lost";
hear(2);
hear(3);
told.before = line.sent;
told.after = [...line.comeBack()];
hear(4);
line.words(); // what asks is not said again, but for a silence that may be another's beginning
for (let piece = 101; piece <= 120; piece += 1) hear(piece);
line.words();
told.settled = [...line.comeBack()];

// What is kept has bounds.
for (let piece = 0; piece < 1000; piece += 1) hear(piece);
line.comeBack();
told.most = line.sent.length - 1;
told.newest = line.sent.at(-1);
voice.stop();
line.words();

// A button that is let go while the connection is away.
await voice.start(line, "hold");
hear(5);
line.state = "lost";
hear(6);
voice.stop();
told.held = line.comeBack();
line.words();
told.nothing = line.comeBack();
console.log(JSON.stringify(told));
