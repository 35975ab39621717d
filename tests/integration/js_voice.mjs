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
  open = true;
  sent = [];
  send(event) {
    if (this.open) this.sent.push(event.listen ? "listen" : Buffer.from(event.audio_chunk.pcm, "base64").readInt16LE());
    return this.open;
  }
  comeBack() {
    this.open = true;
    this.sent = [];
    this.dispatchEvent(new Event("started"));
  }
}
const line = new Line();
const hear = (piece) => port.onmessage({ data: new Int16Array([piece]) });

await new Voice().start(line, "hands_free");
hear(1);
line.open = false;
hear(2);
hear(3);
const before = line.sent;
line.comeBack();
hear(4);
const after = line.sent;
line.open = false;
for (let piece = 0; piece < 1000; piece += 1) hear(piece);
line.comeBack();
console.log(JSON.stringify({ before, after, most: line.sent.length - 1, newest: line.sent.at(-1) }));
