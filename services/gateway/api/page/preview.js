// The live picture of one session: its video by WHEP where that works, and until then pictures: asks for the newest JPEG a few times a second, one request at a
// time, and rests while the page is hidden or the session has no new pictures.

import { Player } from "./client/index.js";
import { byId, clock, setText } from "./dom.js";
import { server } from "./server.js";

const LIVE_MS = 250;
const AGAIN_MS = 15_000; // between two tries to get video
const RESTING_MS = 2000; // stalled, ended, or nothing yet
const FROZEN_MS = 3000; // without a new picture of a live session, after which its video comes from nowhere

const WAITING = {
  SESSION_STATE_WAITING: "Waiting for the first picture …",
  SESSION_STATE_STALLED: "The publisher left. The session waits for it to come back.",
  SESSION_STATE_ENDED: "The video has ended. It still answers about what it saw.",
};

export class Preview {
  #session = null;
  #abort = null;
  #timer = 0;
  #url = "";
  #playing = false;
  #again = 0;
  #seen = { frames: 0, at: 0 };

  constructor() {
    this.figure = byId("preview");
    this.image = byId("preview-image");
    this.caption = byId("preview-caption");
    this.video = byId("preview-video");
    this.iceServers = [];
    this.player = new Player(server, this.video);
    this.player.addEventListener("playing", () => this.#play(true));
    this.player.addEventListener("broke", () => {
      this.#play(false);
      this.#again = setTimeout(() => this.#watch(), AGAIN_MS);
    });
    byId("full-screen").addEventListener("click", () => this.figure.requestFullscreen?.());
    this.soundButton = byId("sound");
    this.soundButton.addEventListener("click", () => this.#hear(this.video.muted));
    document.addEventListener("visibilitychange", () => {
      this.#rest();
      if (!document.hidden) this.#poll();
      this.#watch();
    });
  }

  /** Shows this session (null: none). Called again with news of the same one, it only takes notes. */
  show(session) {
    const other = session?.id !== this.#session?.id;
    const woke = !other && session?.state !== this.#session?.state;
    this.#session = session;
    if (other) {
      this.player.close();
      this.#rest();
      this.#picture(null);
      this.#play(false);
    }
    this.#describe();
    this.soundButton.hidden = !this.#playing || !(session?.sound || !this.video.muted);
    if ((other || woke) && session && !document.hidden) {
      this.#rest();
      this.#poll();
    }
    if (other || woke) this.#watch();
    else if (this.#frozen()) {
      this.#play(false);
      this.#watch();
    }
  }

  /** Tries to get the video now: the server may be another. */
  retry() {
    this.#watch();
  }

  #frozen() {
    const frames = this.video.getVideoPlaybackQuality().totalVideoFrames;
    const now = performance.now();
    const rests = !this.#playing || document.hidden || this.#session?.state !== "SESSION_STATE_LIVE";
    if (rests || frames !== this.#seen.frames) this.#seen = { frames, at: now };
    return now - this.#seen.at > FROZEN_MS;
  }

  /** Gets the video of a session that has one, unless it is there. */
  #watch() {
    clearTimeout(this.#again);
    const seen = !document.hidden || !this.video.muted; // who listens goes on listening
    const wanted = this.#session && seen && this.#session.state === "SESSION_STATE_LIVE";
    if (wanted) return this.#playing ? undefined : this.player.open(this.#session.id, this.#wishes);
    this.player.close();
    this.#play(false);
  }

  get #wishes() {
    return { iceServers: this.iceServers, sound: !this.video.muted };
  }

  /** Sound is asked for once somebody wants it: browsers let no page begin with it. */
  #hear(heard) {
    this.video.muted = !heard;
    this.soundButton.setAttribute("aria-pressed", String(heard));
    setText(this.soundButton, heard ? "Mute" : "Sound");
    if (heard && this.#playing && !this.player.sound) this.player.open(this.#session.id, this.#wishes);
  }

  #play(playing) {
    const changed = playing !== this.#playing;
    this.#playing = playing;
    this.video.hidden = !playing;
    byId("full-screen").hidden = !playing;
    this.soundButton.hidden = !playing || !(this.#session?.sound || !this.video.muted);
    if (playing) {
      this.figure.dataset.empty = "false";
      this.image.hidden = true;
    } else {
      this.image.hidden = !this.#url;
      this.figure.dataset.empty = this.#url ? "false" : "true";
      if (changed && this.#session && !document.hidden) {
        this.#rest();
        this.#poll();
      }
    }
  }

  #rest() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
  }

  async #poll() {
    const session = this.#session;
    if (!session || (this.#playing && this.#url)) return;
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    const begun = performance.now();
    try {
      // a request before the first picture could only fail
      if (Number(session.stats?.frames_received ?? 0) > 0) this.#picture(await server.picture(session.id, { width: this.#width(), signal }));
    } catch {
      // the line and the list of sessions say what is wrong; the last picture stays
    }
    if (signal.aborted) return;
    const pause = this.#session.state === "SESSION_STATE_LIVE" ? LIVE_MS : RESTING_MS;
    this.#timer = setTimeout(() => this.#poll(), Math.max(50, pause - (performance.now() - begun)));
  }

  // as sharp as the screen shows it, in steps, so that the server's pictures are the same for many
  #width() {
    const pixels = this.figure.clientWidth * (devicePixelRatio || 1);
    return Math.min(1280, Math.max(320, Math.ceil(pixels / 320) * 320));
  }

  #picture(blob) {
    const old = this.#url;
    this.#url = blob ? URL.createObjectURL(blob) : "";
    this.figure.dataset.empty = blob || this.#playing ? "false" : "true";
    this.image.hidden = !blob || this.#playing;
    if (blob) this.image.src = this.#url;
    else this.image.removeAttribute("src");
    if (old) URL.revokeObjectURL(old);
  }

  #describe() {
    const session = this.#session;
    if (!session) {
      setText(this.caption, "Choose a session, or start a new one.");
      this.image.alt = "";
      return;
    }
    this.image.alt = `Newest picture of ${session.name || session.id}`;
    const shown = this.figure.dataset.empty === "false";
    const resting = WAITING[session.state];
    const seen = Number(session.stats?.last_capture_ns ?? 0);
    const live = seen > 0 ? `Understood up to ${clock(seen, { tenths: true })}` : "";
    setText(this.caption, resting ?? (shown ? live : "Fetching the picture …"));
  }
}
