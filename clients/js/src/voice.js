// The microphone, on its way to a session: 16-bit PCM over its connection, hands-free or while a
// button is held. The server finds out what was said, and asks it. What a break of the connection cut off
// is said again when that is back.
//
// Fires "change" when `mode` or `open` changes, and "broke" with words for people.

import { Spoken } from "./spoken.js";

const RATE = 16_000; // what is heard; browsers that cannot capture at it send their own
const ANY_RATE = { most: 48_000, least: 8_000 };
const WANTED = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
const MODES = { hands_free: "LISTEN_MODE_HANDS_FREE", hold: "LISTEN_MODE_HOLD", off: "LISTEN_MODE_OFF" };
const WHY_NOT = {
  NotAllowedError: "The browser does not let this page use the microphone. Allow it in the address bar, then try again.",
  NotFoundError: "There is no microphone.",
  NotReadableError: "Another program has the microphone.",
};

export class Voice extends EventTarget {
  #connection = null;
  #stream = null;
  #context = null;
  #mode = "off";
  #lines = new WeakMap(); // connection → what was said over it

  /** "off", "hands_free" or "hold". */
  get mode() {
    return this.#mode;
  }

  /** Whether the microphone is heard already. */
  get open() {
    return this.#context !== null;
  }

  /** Opens the microphone and sends it to a session. A change of mode while it opens closes it. */
  async start(connection, mode) {
    this.stop();
    this.#connection = connection;
    this.#become(mode);
    try {
      await this.#open();
    } catch (error) {
      if (this.#connection !== connection) return;
      this.stop();
      this.dispatchEvent(new CustomEvent("broke", { detail: WHY_NOT[error.name] ?? error.message }));
    }
  }

  /** Closes the microphone; what was said until now is a question. */
  stop() {
    if (this.#context) this.#spoken.listen(MODES.off);
    this.#connection = null;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#context?.close();
    this.#stream = this.#context = null;
    this.#become("off");
  }

  async #open() {
    const connection = this.#connection;
    if (!navigator.mediaDevices) throw new Error("Browsers give the microphone only to pages over https, or of this machine.");
    const stream = await navigator.mediaDevices.getUserMedia({ audio: WANTED });
    if (this.#connection !== connection) return stream.getTracks().forEach((track) => track.stop());
    this.#stream = stream;
    stream.getTracks()[0].addEventListener("ended", () => {
      if (this.#stream !== stream) return;
      this.stop();
      this.dispatchEvent(new CustomEvent("broke", { detail: "The microphone was taken away." }));
    });
    const [context, source] = sourceOf(stream);
    await context.audioWorklet.addModule(new URL("microphone.js", import.meta.url));
    if (this.#connection !== connection) return context.close();
    this.#context = context;
    const node = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = ({ data }) => this.#context === context && this.#spoken.hear({ sample_rate: context.sampleRate, pcm: toBase64(data) });
    this.#spoken.listen(MODES[this.#mode], true);
    source.connect(node);
    await context.resume();
    this.dispatchEvent(new Event("change"));
  }

  get #spoken() {
    const connection = this.#connection;
    if (!this.#lines.has(connection)) this.#lines.set(connection, new Spoken(connection));
    return this.#lines.get(connection);
  }

  #become(mode) {
    if (this.#mode === mode) return;
    this.#mode = mode;
    this.dispatchEvent(new Event("change"));
  }
}

function sourceOf(stream) {
  const wanted = new AudioContext({ sampleRate: RATE });
  try {
    return [wanted, wanted.createMediaStreamSource(stream)];
  } catch {
    wanted.close(); // Firefox captures at the device's rate alone
  }
  const context = new AudioContext();
  const { most, least } = ANY_RATE;
  if (context.sampleRate > most || context.sampleRate < least) throw new Error(`A microphone at ${context.sampleRate} Hz is not heard.`);
  return [context, context.createMediaStreamSource(stream)];
}

/** Int16 values → base64 of little-endian bytes, whatever the machine's byte order. */
function toBase64(samples) {
  const view = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((sample, index) => view.setInt16(2 * index, sample, true));
  return btoa(String.fromCharCode(...new Uint8Array(view.buffer)));
}

/** Makes a button one that is held, by pointer or by the keys that press a button: `press` and `release` may come again. */
export function holdable(button, press, release) {
  const isPress = ({ key }) => key === " " || key === "Enter";
  button.addEventListener("pointerdown", (event) => event.button === 0 && (button.setPointerCapture(event.pointerId), press()));
  for (const end of ["pointerup", "pointercancel", "blur"]) button.addEventListener(end, release);
  button.addEventListener("keydown", (event) => isPress(event) && (event.preventDefault(), event.repeat || press()));
  button.addEventListener("keyup", (event) => isPress(event) && (event.preventDefault(), release()));
  button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch
}
