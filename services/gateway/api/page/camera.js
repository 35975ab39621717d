// "Use my camera": a session of its own, published by WHIP (RFC 9725) from this browser.

import { ApiError, createSession, deleteSession, publish, unpublish } from "./api.js";

const GATHERING_MS = 2000; // a browser may wait long for a dead network; what it has by then will do
const PICTURE = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };

const REFUSALS = {
  NotAllowedError: "The browser may not use the camera. Allow it for this page and try again.",
  NotFoundError: "No camera was found.",
  NotReadableError: "The camera is in use by another program.",
  OverconstrainedError: "The camera gives no picture of a usable size.",
};

export class Camera extends EventTarget {
  #stream = null;
  #peer = null;
  #location = "";

  constructor() {
    super();
    this.state = "off"; // "starting", "on"
    this.iceServers = []; // the gateway's; none: the machine and its local network only
    addEventListener("pagehide", () => this.stop());
  }

  /** Publishes the camera. Returns the session; throws an Error whose message can be shown. */
  async start() {
    this.#become("starting");
    let session = null;
    try {
      this.#stream = await this.#open();
      session = await createSession({ push: {}, options: { name: "My camera" } });
      await this.#publish(new URL(session.whip_url).pathname);
    } catch (error) {
      this.stop();
      if (session) await deleteSession(session.id).catch(() => {}); // it would only wait in vain
      throw error;
    }
    this.#become("on");
    return session;
  }

  /** Ends the publication; the session stays for its grace time and still answers. */
  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    const peer = this.#peer;
    // the goodbye goes first: a server that sees the connection end has nothing left to delete
    if (this.#location) unpublish(this.#location).catch(() => {}).finally(() => peer.close());
    else peer?.close();
    this.#stream = this.#peer = null;
    this.#location = "";
    this.#become("off");
  }

  async #open() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new ApiError("Browsers give the camera only to pages on https:// or on localhost.");
    }
    try {
      return await navigator.mediaDevices.getUserMedia({ video: PICTURE, audio: false });
    } catch (error) {
      throw new ApiError(REFUSALS[error.name] ?? `The camera could not be opened: ${error.message}`);
    }
  }

  async #publish(path) {
    const peer = new RTCPeerConnection({ iceServers: this.iceServers });
    this.#peer = peer;
    for (const track of this.#stream.getVideoTracks()) {
      peer.addTransceiver(track, { direction: "sendonly", streams: [this.#stream] });
      track.onended = () => this.#broke("The camera was switched off.");
    }
    await peer.setLocalDescription(await peer.createOffer());
    await gathered(peer);
    const { answer, location } = await publish(path, peer.localDescription.sdp);
    this.#location = location;
    await peer.setRemoteDescription({ type: "answer", sdp: answer });
    peer.onconnectionstatechange = () => {
      if (peer === this.#peer && peer.connectionState === "failed") this.#broke("The connection of the camera broke.");
    };
  }

  #broke(message) {
    this.stop();
    this.dispatchEvent(new CustomEvent("broke", { detail: message }));
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }
}

function gathered(peer) {
  if (peer.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    setTimeout(resolve, GATHERING_MS);
    peer.addEventListener("icegatheringstatechange", () => peer.iceGatheringState === "complete" && resolve());
  });
}
