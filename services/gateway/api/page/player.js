// A session's live video by WHEP. Whoever shows it hears "playing" once there is a picture, and "broke" when
// there will be none: pictures by HTTP are what remains.

import { publish, unpublish } from "./api.js";
import { gathered } from "./camera.js";

const FIRST_MS = 8000; // to the first picture
const PATIENCE_MS = 3000; // an interrupted connection may come back by itself

export class Player extends EventTarget {
  #peer = null;
  #location = "";
  #timer = 0;

  constructor(video) {
    super();
    this.video = video;
    video.addEventListener("resize", () => {
      if (!this.#peer || !video.videoWidth) return;
      clearTimeout(this.#timer);
      this.dispatchEvent(new Event("playing"));
    });
    addEventListener("pagehide", () => this.close());
  }

  /** Begins to play a session; what was playing ends. */
  async open(id, iceServers = []) {
    this.close();
    if (!globalThis.RTCPeerConnection) return this.dispatchEvent(new Event("broke"));
    const peer = (this.#peer = new RTCPeerConnection({ iceServers }));
    const { receiver } = peer.addTransceiver("video", { direction: "recvonly" });
    receiver.jitterBufferTarget = 0; // live before smooth
    this.video.srcObject = new MediaStream([receiver.track]);
    this.#timer = setTimeout(() => this.#broke(peer), FIRST_MS);
    peer.onconnectionstatechange = () => {
      if (["failed", "closed"].includes(peer.connectionState)) this.#broke(peer);
      if (peer.connectionState === "disconnected") setTimeout(() => peer.connectionState !== "connected" && this.#broke(peer), PATIENCE_MS);
    };
    try {
      await peer.setLocalDescription(await peer.createOffer());
      await gathered(peer);
      if (peer !== this.#peer) return;
      const { answer, location } = await publish(`whep/${encodeURIComponent(id)}`, peer.localDescription.sdp);
      if (peer !== this.#peer) return void unpublish(location).catch(() => {});
      this.#location = location;
      await peer.setRemoteDescription({ type: "answer", sdp: answer });
      await this.video.play();
    } catch {
      this.#broke(peer);
    }
  }

  close() {
    clearTimeout(this.#timer);
    if (this.#location) unpublish(this.#location).catch(() => {});
    this.#peer?.close();
    this.#peer = null;
    this.#location = "";
    this.video.srcObject = null;
  }

  #broke(peer) {
    if (peer !== this.#peer) return;
    this.close();
    this.dispatchEvent(new Event("broke"));
  }
}
