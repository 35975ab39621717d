// Plays spoken answers: PCM chunks (s16le, mono) one after the other through WebAudio.

const LEAD_S = 0.06; // between arrival and playing, against a late next chunk

export class Speech extends EventTarget {
  #context = null;
  #playing = new Set();
  #until = 0;
  #turn = "";

  /** Browsers let a page make sound only after a click or key; call this from one. */
  unlock() {
    this.#context ??= new AudioContext();
    return this.#context.resume();
  }

  get speaking() {
    return this.#playing.size > 0;
  }

  /** From now on only this turn's chunks are played; what still sounds of another one stops. */
  begin(turn) {
    this.stop();
    this.#turn = turn;
  }

  /** Silence at once; chunks of the current turn that are still on their way are not played. */
  stop() {
    this.#turn = "";
    this.#until = 0;
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
    source.onended = () => {
      this.#playing.delete(source);
      if (!this.speaking) this.dispatchEvent(new Event("change"));
    };
    this.#playing.add(source);
    source.start(start);
    this.dispatchEvent(new Event("change"));
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
