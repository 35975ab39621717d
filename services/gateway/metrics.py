"""Metrics of the gateway. Labels come from bounded sets."""

from prometheus_client import Counter, Gauge, Histogram

from services.common.dialogue_client import RoundMetrics
from services.common.metrics import LATENCY_BUCKETS

FRAMES_RECEIVED = Counter(
    "sightline_frames_received_total", "Frames decoded at the gateway.", ["source"]
)
FRAMES_SAMPLED = Counter(
    "sightline_frames_sampled_total", "Frames chosen by the sessions' frame rates.", ["source"]
)
FRAMES_DROPPED = Counter(
    "sightline_frames_dropped_total", "Sampled frames that no model saw.", ["reason"]
)
SOURCE_NOTES = Counter(
    "sightline_source_notes_total",
    "Worth knowing about sources, but lost nothing; keyframe_requested counts WebRTC's PLI.",
    ["what"],
)
SOURCES = Gauge("sightline_sources", "Sessions by how their pictures are.", ["condition"])
SOURCE_HEALTH_EVENTS = Counter(
    "sightline_source_health_events_total",
    "Times that the pictures of a session became bad or good again, by what they are now.",
    ["condition"],
)
FRAMES_PROCESSED = Counter(
    "sightline_frames_processed_total", "Frames acknowledged by workers as understood."
)
FRAMES_HELD = Counter(
    "sightline_frames_held_total",
    "Frames that workers were not sent, for which the one before stands.",
)
FRAMES_REPLAYED = Counter(
    "sightline_frames_replayed_total", "Frames sent again to rebuild a session's state."
)
FRAME_LATENCY = Histogram(
    "sightline_frame_latency_seconds",
    "Frame chosen by the sampler to the worker's word that it is understood, by one clock.",
    ["delivery"],  # newest: live; lossless: its publisher waits for the model
    buckets=LATENCY_BUCKETS,
)
FRAME_AGE = Gauge(
    "sightline_newest_frame_age_seconds",
    "Since the newest understood frame of a session was sampled: quantiles over the sessions.",
    ["state", "of"],  # of: p50, p95, max
)
RTMP_CONNECTIONS = Counter(
    "sightline_rtmp_connections_total", "RTMP connections by what became of them.", ["outcome"]
)
SRT_CONNECTIONS = Counter(
    "sightline_srt_connections_total", "SRT callers by what became of them.", ["outcome"]
)
SRT_PACKETS = Counter(
    "sightline_srt_packets_total",
    "SRT packets that came, that were missing at first, and that never came in time.",
    ["outcome"],
)
WEBRTC_DROPPED = Counter(
    "sightline_webrtc_dropped_total",
    "Packets at the WebRTC port that nobody took, TCP connections there that were refused, and "
    "(socket_full, unread) packets that were not read in time.",
    ["reason"],
)
SESSIONS = Gauge("sightline_sessions", "Sessions by state.", ["state"])
SESSIONS_CREATED = Counter("sightline_sessions_created_total", "Sessions created.", ["input"])
SESSIONS_DELETED = Counter("sightline_sessions_deleted_total", "Sessions deleted.", ["reason"])
WORKER_STREAMS_BROKEN = Counter(
    "sightline_worker_streams_broken_total", "Frame streams that ended before their session."
)
RATE_CHANGES = Counter(
    "sightline_frame_rate_changes_total",
    "Changes of a session's frame rate by the load, by direction: down or up.",
    ["direction"],
)
SESSIONS_MOVED = Counter(
    "sightline_sessions_moved_total", "Times that a session went from one worker to another."
)
SESSIONS_ADOPTED = Counter(
    "sightline_sessions_adopted_total",
    "Sessions of other gateways that this one went on with.",
    ["why"],  # publisher, viewer: one came here; lease: nobody owned it; handed_over: by its owner
)
SESSIONS_LOST = Counter(
    "sightline_sessions_lost_total", "Sessions given up because another gateway had taken them."
)
SESSIONS_HANDED_OVER = Counter(
    "sightline_sessions_handed_over_total", "Sessions given to another gateway while draining."
)
LEASES_AWAY = Counter(
    "sightline_leases_away_total",
    "Times that the leases of sessions could not be renewed because Redis was away.",
)
WORKERS = Gauge("sightline_workers", "Known workers by condition.", ["condition"])
WORKER_AWAY = Gauge(
    "sightline_worker_away",
    "1 for each worker that does not answer; one that answers, or is gone, has no series.",
    ["worker"],  # its address: of those that are away now
)
WORKERS_CHANGED = Counter(
    "sightline_workers_changed_total", "Workers that were found, and that were gone.", ["change"]
)
DISCOVERY_CURRENT = Gauge(
    "sightline_discovery_current",
    "1 while the list of workers is current, 0 while the name or the cluster does not answer.",
    ["place"],  # of GATEWAY_WORKERS
)
DISCOVERY_FAILURES = Counter(
    "sightline_discovery_failures_total", "Looks for workers that failed; the last list held."
)
VIEWERS = Gauge("sightline_viewers", "Viewers by condition.", ["condition"])
VIEWERS_CLOSED = Counter("sightline_viewers_closed_total", "Viewers whose time ended.", ["reason"])
WHEP_VIEWERS = Gauge("sightline_whep_viewers", "Viewers who are shown video by WebRTC.")
WHEP_TRANSCODES = Gauge(
    "sightline_whep_transcodes", "Sessions whose video is encoded anew for their viewers."
)
WHEP_SOUNDTRACKS = Gauge(
    "sightline_whep_soundtracks", "Sessions whose sound is made ready for their listeners."
)
WHEP_RELAYS = Gauge(
    "sightline_whep_relays", "Sessions of other gateways whose video comes from there for viewers."
)
WHEP_BYTES = Counter("sightline_whep_bytes_total", "Video and sound sent to viewers.")
WHEP_CLOSED = Counter("sightline_whep_closed_total", "WebRTC viewers who left.", ["reason"])
WHEP_DROPPED = Counter(
    "sightline_whep_dropped_total", "Pictures that a viewer was not sent.", ["reason"]
)
DELEGATED = Counter(
    "sightline_delegated_total",
    "Questions of sessions that delegate: kept, their own model was sure; else by what became of "
    "them with the delegate.",
    ["outcome"],  # kept, answered, away, busy, resting, refused, blind, cancelled
)
DELEGATE_SECONDS = Histogram(
    "sightline_delegate_seconds",
    "A question given to a delegate to the end of its answer.",
    buckets=LATENCY_BUCKETS,
)
RECORDED_BYTES = Gauge("sightline_recorded_bytes", "Video and sound that are kept of sessions.")
EVENTS_DROPPED = Counter(
    "sightline_events_dropped_total", "Events that a viewer never got.", ["reason"]
)
ANSWERS = Counter("sightline_answers_total", "Answers relayed.", ["finish_reason"])
ANSWERS_IN_FLIGHT = Gauge("sightline_answers_in_flight", "Answers being relayed now.")
QUESTIONS_WAITING = Gauge(
    "sightline_questions_waiting", "Questions that wait for their turn at the gateway."
)
ANSWERS_RETRIED = Counter(
    "sightline_answers_retried_total", "Questions asked again because a worker was away."
)
ANSWERS_RESTARTED = Counter(
    "sightline_answers_restarted_total",
    "Answers made anew by another worker after words of the first had been shown.",
)
ROUNDS = RoundMetrics(
    Counter(
        "sightline_gateway_rounds_total",
        "Finished rounds that their worker had not stored, by what became of them here.",
        ["outcome"],
    ),
    Gauge("sightline_gateway_rounds_waiting", "Rounds held here until dialogue has them."),
)
FIRST_TOKEN = Histogram(
    "sightline_first_token_seconds",
    "Question at the gateway to the first words of its answer.",
    buckets=LATENCY_BUCKETS,
)
CAPTURE_TO_ANSWER = Histogram(
    "sightline_capture_to_answer_seconds",
    "Capture of the newest frame an answer saw to its first words.",
    buckets=LATENCY_BUCKETS,
)
MOMENTS = Counter(
    "sightline_memory_written_total",
    "Moments of sessions that were to be remembered, by what became of them.",
    # kept, pictures_left_out: the hour has its bytes, left_out: likewise, store_away, too_many
    ["outcome"],
)
NOTES = Counter(
    "sightline_memory_notes_total",
    "Lines that workers were asked for to be remembered, by what became of them.",
    ["outcome"],  # written, same: nothing changed, empty, busy: the worker was, late, failed
)
NOTE_SECONDS = Histogram(
    "sightline_memory_note_seconds",
    "Time until a worker had written a line for a session's memory, behind all that is asked.",
    buckets=LATENCY_BUCKETS,
)
RECALLED = Counter(
    "sightline_memory_recalled_total",
    "Questions about the past, by what memory had.",
    ["outcome"],  # found, nothing, away
)
WATCH_EVENTS = Counter("sightline_watch_events_total", "Events of standing questions relayed.")
VOICE_TURNS = Counter(
    "sightline_voice_turns_total",
    "Turns that viewers spoke, by what became of them.",
    ["outcome"],  # asked, wordless, echo, failed
)
VOICE_WORDS = Histogram(
    "sightline_voice_words_seconds",
    "End of a spoken turn, its silence included, to its final words.",
    buckets=LATENCY_BUCKETS,
)
REALTIME_CALLS = Gauge("sightline_realtime_calls", "Realtime conversations by WebRTC.")
REALTIME_CALLS_CLOSED = Counter(
    "sightline_realtime_calls_closed_total", "Those that are over, by why.", ["reason"]
)
HOST_SPEECH = Counter(
    "sightline_host_speech_total",
    "Passages of speech in sessions' own sound, by what became of them.",
    ["outcome"],  # heard, wordless, dropped, failed
)
VOICE_AHEAD = Counter(
    "sightline_voice_ahead_total",
    "Answers begun while a speaker paused, by what became of them.",
    ["outcome"],  # used, dropped
)
VOICE_INTERRUPTIONS = Counter(
    "sightline_voice_interruptions_total",
    "Spoken answers that fell silent because somebody spoke, by what became of it.",
    ["outcome"],  # cut, resumed
)
RULES = Gauge("sightline_rules", "Standing rules of this gateway's sessions.", ["kind"])
RULE_LOOKS = Histogram(
    "sightline_rule_look_seconds",
    "One look at a session for those of its rules that are due, to the last probability.",
    buckets=(*LATENCY_BUCKETS, 10.0, 30.0, 60.0),
)
RULE_CHECKS = Counter("sightline_rule_checks_total", "Rules that a look was about.", ["kind"])
RULE_CHECKS_SAVED = Counter(
    "sightline_rule_checks_saved_total",
    "Rules of many statements that a hint spared: nothing had changed.",
)
RULE_CHECKS_UNFAMILIAR = Counter(
    "sightline_rule_checks_unfamiliar_total",
    "Rules that were not judged, because the pictures are unlike those that the model knows.",
)
RULE_FAILURES = Counter(
    "sightline_rule_failures_total",
    "Looks that gave nothing, by the code of their error.",
    ["code"],
)
RULE_EVENTS = Counter("sightline_rule_events_total", "Events of rules told.", ["kind"])
RULE_EVENTS_LATE = Counter(
    "sightline_rule_events_late_total",
    "Events that could not be told at once, because Redis was away.",
)
EVENT_READERS = Gauge("sightline_event_readers", "Callers who are told events as they come.")
WEBHOOK_TRIES = Counter(
    "sightline_webhook_tries_total", "Deliveries that were tried, by outcome.", ["outcome"]
)
WEBHOOK_DEAD = Counter(
    "sightline_webhook_dead_letters_total",
    "Events that a webhook or the MQTT broker was not brought, by why they were given up.",
    ["reason"],
)
WEBHOOK_DELAY = Histogram(
    "sightline_webhook_delay_seconds",
    "Event told to its delivery.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400),
)
