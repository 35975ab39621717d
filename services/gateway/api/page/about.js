// What is told about an answer when it has ended.

import { clock, milliseconds, plural, seconds, words } from "./dom.js";

const ENDINGS = {
  FINISH_REASON_LENGTH: "cut off at the longest length",
  FINISH_REASON_CANCELLED: "cancelled",
  FINISH_REASON_ERROR: "ended by an error",
};
const DEGRADED = {
  dialogue_unavailable: "answered without earlier rounds: the conversation store is away",
  speech_unavailable: "not spoken: the speech service is away",
  fallback_model: "answered by the fallback model: the model's own answers degenerate",
  answer_repeats: "doubtful: the model repeats itself",
  answer_empty: "the model gave an empty answer",
  answer_not_finite: "doubtful: the model produced no numbers that make sense",
  answer_unsure: "doubtful: the model hardly knew what to say",
  unfamiliar_picture: "the model does not know such pictures: load another one, docs/models.md",
  instructions_ignored: "answered without the instructions: this model reads none",
  memory_unavailable: "answered from what is seen now: what is remembered cannot be read",
  schema_unenforced: "the form that was asked for was told to the model, which is not held to it",
  tools_ignored: "answered without the tools: this model calls none of its own accord",
  delegate_unavailable: "answered by the session's own model: the one that hard questions go to did not answer",
  answer_endless: "cut off: the model found no end",
};

/** A degradation of an answer, for people. */
export const degradation = (flag) => DEGRADED[flag] ?? words(flag);

/** Which other model gave an answer, for a badge: "answered by qwen3-vl:4b"; "" where the session's own did. */
export const answeredBy = (done) => (done?.answered_by ? `answered by ${done.answered_by}` : "");

// What it does not know, it may well be sure of; a number beside that says the wrong thing.
const UNKNOWING = /^i (do not|don.t|cannot|can.t) (know|tell|see)\b/i;

/** "63 % sure of its words · first word after 38 ms · whole answer 121 ms · saw 30 frames, the newest 0.1 s old: … · knew 2 earlier rounds" */
export function aboutAnswer(done) {
  return [
    ENDINGS[done.finish_reason],
    done.confidence !== undefined && !UNKNOWING.test(done.text ?? "") && `${Math.round(100 * done.confidence)} % sure of its words`,
    done.resumed && "begun anew, for its worker was lost",
    done.first_token_ms && `first word after ${milliseconds(done.first_token_ms)}`,
    done.total_ms && `whole answer ${milliseconds(done.total_ms)}`,
    framesSeen(done),
    done.history_rounds && `knew ${plural(done.history_rounds, "earlier round")}`,
  ]
    .filter(Boolean)
    .join(" · ");
}

/** "saw 30 frames, the newest 0.1 s old: 10:03:08.2 to 10:03:12.0 (3.8 s)" */
function framesSeen({ frames_seen, newest_frame_age_ms, first_capture_ns, last_capture_ns }) {
  if (!frames_seen) return "";
  const age = newest_frame_age_ms ? `, the newest ${seconds(newest_frame_age_ms / 1000)} old` : "";
  const text = `saw ${plural(frames_seen, "frame")}${age}`;
  if (!first_capture_ns || !last_capture_ns) return text;
  const span = (Number(last_capture_ns) - Number(first_capture_ns)) / 1e9;
  return `${text}: ${clock(first_capture_ns, { tenths: true })} to ${clock(last_capture_ns, { tenths: true })} (${seconds(span)})`;
}
