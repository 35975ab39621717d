// Plays spoken answers: PCM chunks (s16le, mono) one after the other through WebAudio. Fires "change"
// when it begins or ends to sound, and "played" with {turn, played_s}, how much of a turn was heard.

const LEAD_S = 0.06; // between arrival and playing, against a late next chunk
const TELL_MS = 250;

export class Speech extends EventTarget {
  #context = null;
  #playing = new Set();
  #until = 0;
  #turn = "";
  #pieces = []; // {start, duration} of the turn's chunks, by the context's clock
  #paused = false;
  #telling = 0;

  /** Browsers let a page make sound only after a click or key; call this from one. */
  unlock() {
    this.#context ??= new AudioContext();
    return this.#context.resume();
  }

  /** The turn whose chunks are played; "" for none. */
  get turn() {
    return this.#turn;
  }

  get speaking() {
    return this.#playing.size > 0;
  }

  /** From now on only this turn's chunks are played; what still sounds of another one stops. */
  begin(turn) {
    this.stop();
    this.#turn = turn;
    this.#pieces = [];
  }

  /** Silence at once; what comes is kept, until `resume` or `stop`. */
  pause(turn) {
    if (turn !== this.#turn || !this.#context) return;
    this.#tell();
    this.#paused = true;
    this.#context.suspend();
  }

  /** Plays on where it paused. */
  resume() {
    if (!this.#paused) return;
    this.#paused = false;
    this.#context.resume();
  }

  /** Silence at once; chunks of the current turn that are still on their way are not played. */
  stop() {
    if (this.#turn) this.#tell();
    this.#turn = "";
    this.#until = 0;
    this.resume();
    clearInterval(this.#telling);
    this.#telling = 0;
    for (const source of this.#playing) source.stop();
    this.#playing.clear();
    this.dispatchEvent(new Event("change"));
  }

  /** Queues a SpeechChunk ({turn, audio: {sample_rate, pcm: base64}}). */
  play({ turn, audio }) {
    if (!this.#context || turn !== this.#turn || !audio?.pcm) return;
    const samples = fromBase64(audio.pcm);
    if (samples.length === 0) return;
    const buffer = this.#context.createBuffer(1, samples.length, audio.sample_rate);
    const channel = buffer.getChannelData(0);
    for (let i = 0; i < samples.length; i += 1) channel[i] = samples[i] / 32768;
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#context.destination);
    const start = Math.max(this.#until, this.#context.currentTime + LEAD_S);
    this.#until = start + buffer.duration;
    this.#pieces.push({ start, duration: buffer.duration });
    this.#telling ||= setInterval(() => this.speaking && this.#tell(), TELL_MS);
    source.onended = () => {
      this.#playing.delete(source);
      if (this.speaking) return;
      if (turn === this.#turn) this.#tell();
      this.dispatchEvent(new Event("change"));
    };
    this.#playing.add(source);
    source.start(start);
    this.dispatchEvent(new Event("change"));
  }

  #tell() {
    const now = this.#context?.currentTime ?? 0;
    const parts = this.#pieces.map(({ start, duration }) => Math.max(0, Math.min(duration, now - start)));
    const played_s = parts.reduce((sum, part) => sum + part, 0);
    this.dispatchEvent(new CustomEvent("played", { detail: { turn: this.#turn, played_s } }));
  }
}

/** Base64 of little-endian 16-bit samples → Int16 values, whatever the machine's byte order. */
function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const samples = new Int16Array(bytes.length >> 1);
  for (let i = 0; i < samples.length; i += 1) samples[i] = view.getInt16(2 * i, true);
  return samples;
}
