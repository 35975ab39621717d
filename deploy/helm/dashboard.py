"""Writes the chart's Grafana dashboard from the panels below: `make dashboard`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "sightline" / "monitoring" / "dashboard.json"
WIDTH, HEIGHT = 8, 7  # of a panel; a row is 24 wide
SOURCE = {"type": "prometheus", "uid": "${source}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over time. `curves`: an expression and the legend of its series."""

    title: str
    unit: str
    curves: tuple[tuple[str, str], ...]


def rate(metric: str, by: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}[$__rate_interval]))"


def counted(title: str, metric: str, by: str = "") -> Panel:
    """A counter, per second."""
    return Panel(title, "ops", ((rate(metric, by), f"{{{{{by}}}}}" if by else "all"),))


def timed(title: str, metric: str, only: str = "") -> Panel:
    """A histogram of seconds, as quantiles; `only`: label matchers."""
    return quantiles(title, "s", metric, only)


def quantiles(title: str, unit: str, metric: str, only: str = "") -> Panel:
    buckets = rate(f"{metric}_bucket{only}", "le")
    shares = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    return Panel(
        title, unit, tuple((f"histogram_quantile({q}, {buckets})", name) for q, name in shares)
    )


def gauge(title: str, metric: str, by: str = "instance", unit: str = "short") -> Panel:
    return Panel(title, unit, ((f"sum by ({by}) ({metric})", f"{{{{{by}}}}}"),))


ROWS: dict[str, tuple[Panel, ...]] = {
    "Users": (
        gauge("Sessions", "sightline_sessions", "state"),
        timed(
            "Frame latency, sampled to understood (target: 200 ms)",
            "sightline_frame_latency_seconds",
            '{delivery="newest"}',
        ),
        Panel(
            "Newest understood frame's age",
            "s",
            (("max by (state, of) (sightline_newest_frame_age_seconds)", "{{state}} {{of}}"),),
        ),
        timed("First token, at the gateway", "sightline_first_token_seconds"),
        timed("Capture to answer", "sightline_capture_to_answer_seconds"),
        counted("Answers", "sightline_answers_total", "finish_reason"),
        Panel(
            "Frames dropped (target: 0.1 %)",
            "percentunit",
            (
                (
                    f"{rate('sightline_frames_dropped_total', 'reason')} / ignoring (reason) "
                    f"group_left {rate('sightline_frames_sampled_total')}",
                    "{{reason}}",
                ),
            ),
        ),
    ),
    "Frames": (
        counted("Received", "sightline_frames_received_total", "source"),
        counted("Sampled", "sightline_frames_sampled_total", "source"),
        Panel(
            "Processed, replayed and missing",
            "ops",
            (
                (rate("sightline_frames_processed_total"), "processed"),
                (rate("sightline_frames_replayed_total"), "replayed"),
                (rate("sightline_frames_held_total"), "missing, the one before stands for them"),
            ),
        ),
        timed("Latency at the worker", "sightline_worker_frame_latency_seconds"),
        timed("Waiting for the engine", "sightline_frame_queue_seconds"),
        counted("At the worker", "sightline_worker_frames_total", "outcome"),
        counted("Pictures encoded and reused", "sightline_worker_pictures_total", "outcome"),
        counted("Frames of unfamiliar pictures", "sightline_worker_unfamiliar_frames_total"),
        counted("Answers withheld about them", "sightline_worker_withheld_total"),
        counted("Rates changed by the load", "sightline_frame_rate_changes_total", "direction"),
        gauge("Sessions by how their pictures are", "sightline_sources", "condition"),
        counted(
            "Pictures that became bad or good",
            "sightline_source_health_events_total",
            "condition",
        ),
        counted("Notes about sources", "sightline_source_notes_total", "what"),
        counted("RTMP connections", "sightline_rtmp_connections_total", "outcome"),
        counted("SRT connections", "sightline_srt_connections_total", "outcome"),
        counted("SRT packets", "sightline_srt_packets_total", "outcome"),
        counted("WebRTC packets dropped", "sightline_webrtc_dropped_total", "reason"),
    ),
    "KV memory and parking": (
        Panel(
            "KV pool",
            "percentunit",
            (
                ("sightline_kv_pages_used / sightline_kv_pages_total", "used, {{instance}}"),
                (
                    "sightline_kv_pages_promised / sightline_kv_pages_total",
                    "promised, {{instance}}",
                ),
            ),
        ),
        Panel(
            "Sessions of a worker",
            "short",
            (
                ("sightline_worker_sessions", "open, {{instance}}"),
                ("sightline_worker_parked_sessions", "parked, {{instance}}"),
                ("sightline_worker_session_capacity", "fit, {{instance}}"),
            ),
        ),
        gauge("Host memory of parked sessions", "sightline_worker_parked_bytes", unit="bytes"),
        counted("Sessions parked", "sightline_worker_parks_total", "reason"),
        counted("Parked sessions wanted", "sightline_worker_returns_total", "outcome"),
        gauge("KV bytes of a session", "sightline_kv_bytes_per_session", unit="bytes"),
        Panel(
            "KV hits (target: 100 %)",
            "percentunit",
            (
                (
                    rate('sightline_kv_segments_total{kind="reused"}')
                    + f" / {rate('sightline_kv_segments_total')}",
                    "reused",
                ),
            ),
        ),
        counted("Segments withdrawn from answers", "sightline_kv_segments_withdrawn_total"),
        counted("Answers paused for pages", "sightline_worker_answers_paused_total"),
        counted("Rebases", "sightline_rebases_total"),
    ),
    "Guards": (
        gauge("Sessions whose answers degenerated", "sightline_worker_degraded_sessions"),
        counted("Unhealthy answers", "sightline_worker_anomalies_total", "symptom"),
        counted("Probes of models that degenerated", "sightline_worker_probes_total", "answer"),
        Panel(
            "Fallback model",
            "short",
            (
                ("sightline_worker_fallback_ready", "ready, {{instance}}"),
                (rate("sightline_worker_fallback_answers_total", "outcome"), "{{outcome}}"),
            ),
        ),
        counted(
            "Requests to a relayed model's server",
            "sightline_worker_relay_requests_total",
            "outcome",
        ),
        Panel(
            "Memory used (above 90 % measures are taken, until below 80 %)",
            "percentunit",
            (("sightline_worker_memory_share_ratio", "{{of}} {{instance}}"),),
        ),
        Panel(
            "Memory short, and measures taken",
            "short",
            (
                ("max by (instance, of) (sightline_worker_memory_short)", "{{of}} {{instance}}"),
                (rate("sightline_worker_memory_measures_total", "measure"), "{{measure}}"),
            ),
        ),
    ),
    "Engine": (
        Panel(
            "Device used, by its own count (70 to 85 % is well used)",
            "percentunit",
            (("sightline_device_utilisation_ratio", "{{source}} {{instance}}"),),
        ),
        Panel(
            "Device memory",
            "percentunit",
            (
                (
                    "sightline_device_memory_used_bytes / sightline_device_memory_total_bytes",
                    "{{source}} {{instance}}",
                ),
            ),
        ),
        gauge("The engine's thread is busy", "sightline_engine_busy_ratio", unit="percentunit"),
        timed("A step", "sightline_step_seconds"),
        counted("Steps that failed", "sightline_step_failures_total", "part"),
        counted("Steps on a GPU", "sightline_worker_device_steps_total", "how"),
        quantiles("Tokens of a step", "short", "sightline_step_tokens"),
        quantiles("Segments of a step", "short", "sightline_step_segments"),
        Panel(
            "Models",
            "short",
            (("sightline_worker_info", "{{instance}}: {{model}} {{dtype}}, KV {{kv_dtype}}"),),
        ),
        gauge("Questions and checks", "sightline_worker_questions", "state"),
        Panel(
            "What endpoint pickers read (InferencePool)",
            "short",
            (
                ("sightline_num_requests_waiting", "waiting, {{instance}}"),
                ("sightline_num_requests_running", "running, {{instance}}"),
                ("sightline_kv_cache_usage_perc", "KV share, {{instance}}"),
            ),
        ),
        timed("First token, at the worker", "sightline_worker_first_token_seconds"),
        counted("Answers of workers", "sightline_worker_answers_total", "finish"),
    ),
    "Gateway": (
        gauge("Workers", "sightline_workers", "condition"),
        gauge("Workers that do not answer", "sightline_worker_away", "worker"),
        counted("Workers found and gone", "sightline_workers_changed_total", "change"),
        Panel(
            "Looks for workers",
            "short",
            (
                (
                    "min by (instance, place) (sightline_discovery_current)",
                    "{{instance}}: {{place}} is current",
                ),
                (rate("sightline_discovery_failures_total"), "failed, per second"),
            ),
        ),
        Panel(
            "Frame streams",
            "ops",
            (
                (rate("sightline_worker_streams_broken_total"), "broken"),
                (rate("sightline_sessions_moved_total"), "moved to another worker"),
            ),
        ),
        Panel(
            "Sessions made and ended",
            "ops",
            (
                (rate("sightline_sessions_created_total", "input"), "made: {{input}}"),
                (rate("sightline_sessions_deleted_total", "reason"), "ended: {{reason}}"),
            ),
        ),
        gauge("Viewers", "sightline_viewers", "condition"),
        gauge("WebRTC viewers", "sightline_whep_viewers"),
        gauge("Realtime calls", "sightline_realtime_calls"),
        gauge("Video encoded for viewers", "sightline_whep_transcodes"),
        gauge("Sound made ready for viewers", "sightline_whep_soundtracks"),
        gauge("Video from other gateways for viewers", "sightline_whep_relays"),
        gauge("Recordings kept", "sightline_recorded_bytes"),
        counted("WebRTC viewers gone", "sightline_whep_closed_total", "reason"),
        counted("Pictures not sent to viewers", "sightline_whep_dropped_total", "reason"),
        counted("Video sent to viewers", "sightline_whep_bytes_total"),
        counted("Viewers gone", "sightline_viewers_closed_total", "reason"),
        Panel(
            "Sessions among gateways",
            "ops",
            (
                (rate("sightline_sessions_adopted_total", "why"), "adopted: {{why}}"),
                (rate("sightline_sessions_handed_over_total"), "handed over"),
                (rate("sightline_sessions_lost_total"), "lost to another"),
                (rate("sightline_leases_away_total"), "leases not renewed"),
            ),
        ),
        counted("Events lost", "sightline_events_dropped_total", "reason"),
        Panel(
            "Answers under way and asked again",
            "short",
            (
                ("sum (sightline_answers_in_flight)", "under way"),
                ("sum (sightline_questions_waiting)", "of these waiting for a turn"),
                (rate("sightline_answers_retried_total"), "asked again, per second"),
                (rate("sightline_answers_restarted_total"), "made anew, per second"),
            ),
        ),
        counted("Checks of watches", "sightline_watch_checks_total", "answer"),
        counted("Events of watches", "sightline_watch_events_total"),
    ),
    "Rules": (
        gauge("Standing rules", "sightline_rules", "kind"),
        Panel(
            "Rules checked",
            "ops",
            (
                (rate("sightline_rule_checks_total", "kind"), "{{kind}}"),
                (rate("sightline_rule_checks_saved_total"), "spared by a hint"),
                (rate("sightline_rule_checks_unfamiliar_total"), "of unfamiliar pictures"),
            ),
        ),
        timed("A look at a session for its rules", "sightline_rule_look_seconds"),
        counted("Looks that gave nothing", "sightline_rule_failures_total", "code"),
        Panel(
            "Events",
            "ops",
            (
                (rate("sightline_rule_events_total", "kind"), "{{kind}}"),
                (rate("sightline_rule_events_late_total"), "late, for Redis was away"),
            ),
        ),
        gauge("Readers of events", "sightline_event_readers"),
        counted("Deliveries of webhooks", "sightline_webhook_tries_total", "outcome"),
        timed("Event to its delivery", "sightline_webhook_delay_seconds"),
        counted("Dead letters", "sightline_webhook_dead_letters_total", "reason"),
    ),
    "Dialogue, speech and calls": (
        gauge("Tasks of a service", "sightline_tasks"),
        gauge("Redis answers", "sightline_dialogue_redis_up"),
        timed("Redis operations", "sightline_dialogue_redis_seconds"),
        counted("Redis errors", "sightline_dialogue_redis_errors_total", "reason"),
        Panel(
            "Rounds of conversations",
            "ops",
            (
                (rate("sightline_dialogue_rounds_appended_total", "result"), "{{result}}"),
                (rate("sightline_dialogue_rounds_trimmed_total"), "trimmed"),
                (rate("sightline_worker_rounds_total", "outcome"), "of workers: {{outcome}}"),
                (rate("sightline_gateway_rounds_total", "outcome"), "of gateways: {{outcome}}"),
            ),
        ),
        Panel(
            "Memory of sessions",
            "ops",
            (
                (rate("sightline_memory_written_total", "outcome"), "moments: {{outcome}}"),
                (rate("sightline_memory_moments_total", "outcome"), "at dialogue: {{outcome}}"),
                (rate("sightline_memory_notes_total", "outcome"), "lines: {{outcome}}"),
                (rate("sightline_memory_recalled_total", "outcome"), "recalled: {{outcome}}"),
            ),
        ),
        counted("Questions of sessions that delegate", "sightline_delegated_total", "outcome"),
        timed("Answers of delegates", "sightline_delegate_seconds"),
        counted("Memory stored", "sightline_memory_bytes_total"),
        timed("A line for memory", "sightline_memory_note_seconds"),
        gauge("Rounds not written yet", "sightline_worker_rounds_waiting"),
        gauge("Rounds that gateways hold too", "sightline_gateway_rounds_waiting"),
        counted("Histories read", "sightline_worker_contexts_total", "outcome"),
        counted("Answers spoken", "sightline_worker_speeches_total", "outcome"),
        counted("Refused at the ports", "sightline_refused_total", "reason"),
        timed("First audio", "sightline_tts_first_audio_seconds"),
        timed("A sentence", "sightline_tts_sentence_seconds"),
        counted("Sentences", "sightline_tts_sentences_total", "outcome"),
        Panel(
            "Texts being spoken, and audio per second",
            "short",
            (
                ("sum (sightline_tts_streams)", "texts"),
                (rate("sightline_tts_audio_seconds_total"), "seconds of audio"),
            ),
        ),
        counted("Texts spoken", "sightline_tts_streams_ended_total", "reason"),
        timed("Final words", "sightline_asr_final_seconds"),
        timed("A look at a recording", "sightline_asr_pass_seconds"),
        counted("Recordings heard", "sightline_asr_streams_ended_total", "reason"),
        Panel(
            "Recordings being heard, and audio per second",
            "short",
            (
                ("sum (sightline_asr_streams)", "recordings"),
                (rate("sightline_asr_audio_seconds_total"), "seconds of audio"),
            ),
        ),
        counted("Realtime calls that ended", "sightline_realtime_calls_closed_total", "reason"),
        counted("Passages of speech in videos", "sightline_host_speech_total", "outcome"),
        counted("Spoken turns", "sightline_voice_turns_total", "outcome"),
        counted("Answers begun in a pause", "sightline_voice_ahead_total", "outcome"),
        counted("Interruptions", "sightline_voice_interruptions_total", "outcome"),
        timed("End of a spoken turn to its words", "sightline_voice_words_seconds"),
        counted("Calls that failed", 'sightline_rpc_seconds_count{code!="OK"}', "code"),
        timed("Calls", "sightline_rpc_seconds"),
    ),
}


def dashboard() -> str:
    """The whole file."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place})
        y += 1
        for number, panel in enumerate(row):
            place = {
                "x": number % 3 * WIDTH,
                "y": y + number // 3 * HEIGHT,
                "w": WIDTH,
                "h": HEIGHT,
            }
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
        y += -(-len(row) // 3) * HEIGHT
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    whole = {
        "uid": "sightline",
        "title": "Sightline",
        "tags": ["sightline"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }
    return json.dumps(whole, indent=1) + "\n"


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + number), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for number, (expr, legend) in enumerate(panel.curves)
        ],
    }


if __name__ == "__main__":
    PATH.write_text(dashboard())
