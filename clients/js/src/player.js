// A session's live video by WHEP. Whoever shows it hears "playing" once there is a picture, and "broke" when
// there will be none: pictures by HTTP are what remains.

import { gathered } from "./peer.js";

const FIRST_MS = 8000; // to the first picture
const PATIENCE_MS = 3000; // an interrupted connection may come back by itself

export class Player extends EventTarget {
  #client;
  #line = null; // what is shown
  #next = null; // what will be, once something comes

  /** `video`: the element that shows it. */
  constructor(client, video) {
    super();
    this.#client = client;
    this.video = video;
    for (const name of ["resize", "loadeddata"]) {
      video.addEventListener(name, () => {
        if (!this.#line || !video.videoWidth) return;
        clearTimeout(this.#line.timer);
        this.dispatchEvent(new Event("playing"));
      });
    }
    addEventListener("pagehide", () => this.close());
  }

  /** Whether what plays has sound, or what will. */
  get sound() {
    return Boolean((this.#next ?? this.#line)?.sound);
  }

  /** Begins to play a session; what was playing ends as soon as that comes. */
  async open(id, { iceServers = [], sound = false } = {}) {
    if (!globalThis.RTCPeerConnection) return this.dispatchEvent(new Event("broke"));
    this.#hangUp(this.#next);
    const peer = new RTCPeerConnection({ iceServers });
    const line = (this.#next = { peer, sound, location: "", timer: 0 });
    const tracks = (sound ? ["video", "audio"] : ["video"]).map((kind) => {
      const { receiver } = peer.addTransceiver(kind, { direction: "recvonly" });
      receiver.jitterBufferTarget = 0; // live before smooth
      return receiver.track;
    });
    tracks[0].addEventListener("unmute", () => this.#show(line, tracks), { once: true });
    line.timer = setTimeout(() => this.#broke(line), FIRST_MS);
    peer.onconnectionstatechange = () => {
      if (["failed", "closed"].includes(peer.connectionState)) this.#broke(line);
      if (peer.connectionState === "disconnected") setTimeout(() => peer.connectionState !== "connected" && this.#broke(line), PATIENCE_MS);
    };
    try {
      await peer.setLocalDescription(await peer.createOffer());
      await gathered(peer);
      if (this.#isOver(line)) return;
      const { answer, location } = await this.#client.offer(`whep/${encodeURIComponent(id)}`, peer.localDescription.sdp);
      line.location = location;
      if (this.#isOver(line)) return this.#hangUp(line);
      await peer.setRemoteDescription({ type: "answer", sdp: answer });
    } catch {
      this.#broke(line);
    }
  }

  close() {
    this.#hangUp(this.#next);
    this.#hangUp(this.#line);
    this.#line = this.#next = null;
    this.video.srcObject = null;
  }

  #isOver(line) {
    return line !== this.#line && line !== this.#next;
  }

  #show(line, tracks) {
    if (line !== this.#next) return;
    this.#hangUp(this.#line);
    this.#line = line;
    this.#next = null;
    this.video.srcObject = new MediaStream(tracks);
    this.video.play().catch(() => {}); // another stream has taken its place
  }

  #broke(line) {
    if (this.#isOver(line)) return;
    this.close();
    this.dispatchEvent(new Event("broke"));
  }

  #hangUp(line) {
    if (!line) return;
    clearTimeout(line.timer);
    const { peer, location } = line;
    line.location = "";
    if (!location || peer.connectionState === "closed") return peer.close();
    // First in words: a server that sees the peer close knows of no such line any more.
    this.#client.hangUp(location).catch(() => {}).finally(() => peer.close());
  }
}
