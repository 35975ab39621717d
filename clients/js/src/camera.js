// "Use my camera", "Share my screen": a session of its own, published by WHIP (RFC 9725) from this
// browser.

import { SightlineError } from "./errors.js";
import { gathered } from "./peer.js";

const PATIENCE_MS = 2000; // a connection that is interrupted may come back by itself
const AGAIN_MS = 30_000; // that publishing is tried again
const FIRST_PAUSE_MS = 250;
const LAST_PAUSE_MS = 2000;
const MOST_CAMERAS = 20; // of the same name
const PICTURE = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };

const REFUSALS = {
  NotAllowedError: "The browser may not use the camera. Allow it for this page and try again.",
  NotFoundError: "No camera was found.",
  NotReadableError: "The camera is in use by another program.",
  OverconstrainedError: "The camera gives no picture of a usable size.",
};

export class Camera extends EventTarget {
  #client;
  #stream = null;
  #peer = null;
  #location = "";
  #path = "";

  /** `screen`: what is on the screen, instead of a camera. */
  constructor(client, { screen = false } = {}) {
    super();
    this.#client = client;
    this.screen = screen;
    this.device = ""; // the id of the camera that was chosen; "" for the browser's choice
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
      session = await created(this.#client, this.screen ? "My screen" : "My camera");
      this.#path = new URL(session.whip_url).pathname;
      await this.#publish();
    } catch (error) {
      this.stop();
      if (session) await this.#client.remove(session.id).catch(() => {}); // it would only wait in vain
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
    if (this.#location) this.#client.hangUp(this.#location).catch(() => {}).finally(() => peer.close());
    else peer?.close();
    this.#stream = this.#peer = null;
    this.#location = "";
    this.#become("off");
  }

  /** The cameras there are, once one of them may be used. */
  async cameras() {
    const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    return devices.filter(({ kind, deviceId }) => kind === "videoinput" && deviceId);
  }

  /** The id of the camera that is shown. */
  get inUse() {
    return this.#stream?.getVideoTracks()[0]?.getSettings().deviceId ?? "";
  }

  /** Shows another camera from here on, on the same connection. Throws what can be shown. */
  async use(device) {
    const before = this.device;
    this.device = device;
    if (this.state !== "on") return;
    for (const track of this.#stream.getTracks()) track.stop(); // many a phone opens one camera at a time
    try {
      this.#stream = await this.#open();
    } catch (error) {
      this.device = before;
      this.stop();
      throw error;
    }
    const [track] = this.#stream.getVideoTracks();
    track.onended = () => this.#broke("The camera was switched off.");
    await this.#peer?.getSenders()[0].replaceTrack(track);
  }

  async #open() {
    if (this.screen) return this.#openScreen();
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new SightlineError("Browsers give the camera only to pages on https:// or on localhost.");
    }
    try {
      return await navigator.mediaDevices.getUserMedia({ video: this.device ? { ...PICTURE, deviceId: { exact: this.device } } : PICTURE, audio: false });
    } catch (error) {
      throw new SightlineError(REFUSALS[error.name] ?? `The camera could not be opened: ${error.message}`);
    }
  }

  async #openScreen() {
    try {
      return await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: { ideal: 15 } }, audio: false });
    } catch (error) {
      throw new SightlineError(error.name === "NotAllowedError" ? "The screen is not shared." : `The screen could not be shared: ${error.message}`);
    }
  }

  async #publish() {
    const peer = new RTCPeerConnection({ iceServers: this.iceServers });
    this.#peer = peer;
    for (const track of this.#stream.getVideoTracks()) {
      peer.addTransceiver(track, { direction: "sendonly", streams: [this.#stream] });
      track.onended = () => (this.screen ? this.stop() : this.#broke("The camera was switched off."));
    }
    await peer.setLocalDescription(await peer.createOffer());
    await gathered(peer);
    const { answer, location } = await this.#client.offer(this.#path, peer.localDescription.sdp);
    if (peer !== this.#peer) return peer.close(); // stopped meanwhile
    this.#location = location;
    await peer.setRemoteDescription({ type: "answer", sdp: answer });
    peer.onconnectionstatechange = () => {
      if (peer !== this.#peer) return;
      if (peer.connectionState === "failed") this.#publishAgain(peer);
      if (peer.connectionState === "disconnected") setTimeout(() => this.#publishAgain(peer), PATIENCE_MS);
    };
  }

  /** The server went away, or another takes its place: the same camera, over a new connection. */
  async #publishAgain(peer) {
    if (peer !== this.#peer || peer.connectionState === "connected") return;
    const until = Date.now() + AGAIN_MS;
    for (let pause = FIRST_PAUSE_MS; this.#stream; pause = Math.min(2 * pause, LAST_PAUSE_MS)) {
      this.#peer?.close();
      this.#location = "";
      try {
        return await this.#publish();
      } catch {
        if (Date.now() > until) return this.#broke("The connection of the camera broke.");
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
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

/** A session for a camera, under a name that no other one has. */
async function created(client, kind) {
  for (let number = 1; ; number += 1) {
    const name = number === 1 ? kind : `${kind} ${number}`;
    try {
      return await client.create({ push: {}, options: { name } });
    } catch (error) {
      if (error.reason !== "NAME_TAKEN" || number === MOST_CAMERAS) throw error;
    }
  }
}
