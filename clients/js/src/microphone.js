// Runs where sound is made, beside the page: gathers what the microphone hears and hands it over as
// 16-bit samples, twenty times a second.

const PIECE_S = 0.05;

class Microphone extends AudioWorkletProcessor {
  #piece = new Int16Array(Math.round(sampleRate * PIECE_S));
  #length = 0;

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.#piece[this.#length] = Math.max(-1, Math.min(1, sample)) * 32767;
      this.#length += 1;
      if (this.#length === this.#piece.length) {
        this.port.postMessage(this.#piece.slice());
        this.#length = 0;
      }
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
