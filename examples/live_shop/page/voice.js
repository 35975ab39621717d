// A question by voice: what is said while a button is held, as one recording.

import { holdable, Voice } from "/client/index.js";

/** Where the microphone's sound goes: it is kept until the button is let go. */
class Recorder extends EventTarget {
  #pieces = [];
  #rate = 0;

  send({ listen, audio_chunk: chunk }) {
    if (chunk) {
      this.#rate = chunk.sample_rate;
      this.#pieces.push(Uint8Array.from(atob(chunk.pcm), (character) => character.charCodeAt(0)));
    } else if (listen.mode === "LISTEN_MODE_OFF") {
      const pieces = this.#pieces.splice(0);
      if (pieces.length) this.dispatchEvent(new CustomEvent("said", { detail: wav(pieces, this.#rate) }));
    }
    return true;
  }
}

function wav(pieces, rate) {
  const length = pieces.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((letter, index) => head.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + length, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true); // PCM
  head.setUint16(22, 1, true); // channel
  head.setUint32(24, rate, true);
  head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true); // bytes a sample
  head.setUint16(34, 16, true);
  text(36, "data");
  head.setUint32(40, length, true);
  return new Blob([head, ...pieces], { type: "audio/wav" });
}

/** Makes a button record while it is held, by pointer or by key: `said` is given each recording. */
export function holdToTalk(button, began, said, broke) {
  const voice = new Voice();
  const recorder = new Recorder();
  recorder.addEventListener("said", ({ detail }) => said(detail));
  voice.addEventListener("broke", ({ detail }) => broke(detail));
  voice.addEventListener("change", () => {
    const held = voice.mode === "hold";
    button.setAttribute("aria-pressed", String(held));
    button.textContent = !held ? "Hold to talk" : voice.open ? "Listening …" : "Opening …";
  });
  const press = () => voice.mode === "hold" || (began(), voice.start(recorder, "hold"));
  const release = () => voice.mode === "hold" && voice.stop();
  holdable(button, press, release);
}
