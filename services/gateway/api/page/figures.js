// The session's figures: tiles with a number in words and a small curve of the last minutes.

import { byId, el, milliseconds, setText, words } from "./dom.js";

const HISTORY = 120; // reports, one a second
const SHORT = 30; // a younger curve does not fill the width

const percent = (ratio) => `${(100 * ratio).toFixed(ratio > 0.9995 || ratio < 0.1 ? 0 : 1)} %`;
const rate = (value) => (value ?? 0).toFixed(1);
const total = (dropped) => Object.values(dropped ?? {}).reduce((sum, count) => sum + Number(count), 0);

// label, the number, the words under it, the values of the curve (one or two lines)
const TILES = [
  {
    label: "Frames in",
    value: (s) => `${rate(s.fps_in)} fps`,
    note: (s) => (s.source_width ? `${s.source_width} × ${s.source_height}` : "no picture yet"),
    curve: (s) => [s.fps_in ?? 0],
  },
  {
    label: "Understood",
    value: (s) => `${rate(s.fps_processed)} fps`,
    note: (s) => `${Number(s.frames_processed ?? 0).toLocaleString()} frames`,
    curve: (s) => [s.fps_processed ?? 0],
  },
  {
    label: "Latency",
    value: (s) => milliseconds(s.frame_latency_p50_ms || NaN),
    note: (s) => `p95 ${milliseconds(s.frame_latency_p95_ms || NaN)}`,
    curve: (s) => [s.frame_latency_p50_ms ?? 0, s.frame_latency_p95_ms ?? 0],
  },
  {
    label: "Dropped",
    value: (s) => total(s.dropped).toLocaleString(),
    note: (s) =>
      Object.entries(s.dropped ?? {})
        .filter(([, count]) => Number(count) > 0)
        .map(([reason, count]) => `${words(reason)} ${Number(count).toLocaleString()}`)
        .join(", ") || "none lost",
    curve: (s, last) => [last ? Math.max(0, total(s.dropped) - total(last.dropped)) : 0],
  },
  {
    label: "Reuse",
    value: (s) => (s.kv_hit_ratio === undefined ? "–" : percent(s.kv_hit_ratio)),
    note: () => "KV hit ratio",
    curve: (s) => [s.kv_hit_ratio ?? 0],
    top: 1,
  },
];

export class Figures {
  #session = "";
  #last = null;
  #history = [];
  #tiles = [];

  constructor() {
    const place = byId("figures");
    for (const tile of TILES) {
      const value = el("dd", { class: "value", text: "–" });
      const note = el("dd", { class: "note muted small", text: "" });
      const canvas = el("canvas", { "aria-hidden": "true" });
      place.append(el("div", { class: "tile" }, el("dt", { text: tile.label }), value, note, canvas));
      this.#tiles.push({ ...tile, value: tile.value, valueNode: value, noteNode: note, canvas });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(place);
  }

  /** Takes one report of a session; another session's report starts the curves anew. */
  show(session) {
    if (session?.id !== this.#session) {
      this.#session = session?.id ?? "";
      this.#history = [];
      this.#last = null;
    }
    const stats = session?.stats ?? {};
    for (const tile of this.#tiles) {
      setText(tile.valueNode, session ? tile.value(stats) : "–");
      setText(tile.noteNode, session ? tile.note(stats) : "");
    }
    this.#history.push(this.#tiles.map((tile) => tile.curve(stats, this.#last)));
    if (this.#history.length > HISTORY) this.#history.shift();
    this.#last = stats;
    this.#draw();
  }

  #draw() {
    if (document.hidden) return;
    this.#tiles.forEach((tile, index) => sparkline(tile.canvas, this.#history.map((row) => row[index]), tile.top));
  }
}

/** Draws one curve per value of a row, the newest at the right edge, over a scale from 0 to `top`. */
function sparkline(canvas, rows, top) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (width === 0) return;
  const scale = devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  if (rows.length < 2) return;
  const style = getComputedStyle(canvas);
  const most = top ?? (Math.max(...rows.flat()) * 1.15 || 1);
  const step = width / (Math.max(rows.length, SHORT) - 1);
  const x = (index) => width - (rows.length - 1 - index) * step;
  const y = (value) => height - 1.5 - (Math.min(value, most) / most) * (height - 3);
  const curves = rows[0].length;
  for (let curve = curves - 1; curve >= 0; curve -= 1) {
    pen.beginPath();
    rows.forEach((row, index) => pen.lineTo(x(index), y(row[curve])));
    pen.strokeStyle = style.color;
    pen.globalAlpha = curve === 0 ? 1 : 0.45;
    pen.lineWidth = 1.5;
    pen.lineJoin = "round";
    pen.stroke();
    if (curve > 0) continue;
    pen.lineTo(x(rows.length - 1), height);
    pen.lineTo(x(0), height);
    pen.globalAlpha = 0.12;
    pen.fillStyle = style.color;
    pen.fill();
  }
}
