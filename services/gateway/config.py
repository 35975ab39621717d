"""The gateway's settings, one environment variable each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import urlsplit

from services.common.certificate import Certificate
from services.common.config import ConfigError, setting
from services.common.hosts import Hosts, host_name, is_loopback, is_private, netloc_of
from services.common.places import Trusted
from services.common.redis_config import REDIS_URLS, RedisConfig
from services.gateway.sources.remote.egress_policy import Rule
from services.gateway.sources.whip.ice import parse_ice_server
from services.gateway.voice.turn_detector import TurnRules

# A host may be called "dns" and an address be a target of gRPC's own, dns:///host:port.
_DISCOVERY = re.compile(r"(static|dns|kubernetes):(?!//)([^,]*[:/].*)")
_DNS = re.compile(r"([^\s,/:]+|\[[0-9A-Fa-f:.]+\]):(\d+)")
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_KUBERNETES = re.compile(rf"({_LABEL})/({_LABEL}):(\d+|[a-z0-9](?:[-a-z0-9]{{0,13}}[a-z0-9])?)")

MIN_SECRET_CHARACTERS = 32  # of what gateways sign with


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig(RedisConfig):
    """The settings. Limits are counts unless a name ends in a unit. Of what viewers share (places,
    watches, asks and speaks) one address may have half of what the others leave."""

    prefix: ClassVar[str] = "GATEWAY_"

    workers: tuple[str, ...] = setting(
        ("127.0.0.1:50060",),
        "Inference workers: host:port, comma separated (also with static: before them); "
        "dns:name:port, all addresses of a name; or kubernetes:namespace/service:port, the "
        "endpoints of a Service, by the number or the name of its port. Several of these, as of "
        "several pools, are separated by `;`.",
    )
    default_model: str = setting(
        "",
        "Model or pool of sessions that name none; empty: that of the first worker, in the order "
        "of GATEWAY_WORKERS, that answers.",
    )
    dns_interval_s: float = setting(
        2.0, "Seconds until a name of workers is resolved again.", minimum=0.1, maximum=60
    )
    tts: str | None = setting(None, "TTS service, host:port; empty: Speak is unavailable.")
    asr: str | None = setting(None, "ASR service, host:port; empty: questions are typed.")
    listen: bool = setting(
        False,
        "Hear what is said in every video, where there is an ASR service and its session is not "
        "told otherwise.",
    )
    transcript_s: float = setting(
        3600.0,
        "Seconds that is kept what was said in a session's video.",
        minimum=1,
        maximum=86400,
    )
    said_s: float = setting(
        60.0,
        "Seconds of what was said in a video that a question about it knows of.",
        minimum=0,
        maximum=3600,
    )
    speech_s: float = setting(
        0.3, "Seconds of speech that begin a spoken question.", minimum=0.1, maximum=5
    )
    silence_s: float = setting(
        0.5, "Seconds of silence that end a spoken question.", minimum=0.2, maximum=10
    )
    more_s: float = setting(
        1.5, "Seconds of silence that end one whose words ask for more.", minimum=0.2, maximum=30
    )
    answer_ahead: bool = setting(
        True,
        "Begin to answer a spoken question while its last silence runs. If more is said, that was "
        "in vain.",
    )
    dialogue: str | None = setting(
        None, "Dialogue service, host:port; empty: clients cannot read or delete conversations."
    )
    memory: str = setting(
        "off",
        "What is kept of a session beyond its window, where it does not say itself: off; lines, "
        "which the model writes of every moment; pictures, small ones of each as well. Redis has "
        "it until the session is deleted; needs GATEWAY_DIALOGUE.",
        choices=("off", "lines", "pictures"),
    )
    memory_moment_s: float = setting(
        15.0,
        "Seconds of the longest moment that is remembered as one; a change of the picture ends it "
        "earlier.",
        minimum=5,
        maximum=300,
    )
    media_root: Path | None = setting(
        None, "Folder that file sources may be read from; empty: no local files."
    )
    uploads: Path | None = setting(
        None,
        "Folder for files that viewers hand over (drop on the page), each kept for as long as its "
        "session is there; empty: none are taken.",
    )
    upload_bytes: int = setting(512 * 1024 * 1024, "Bytes of one such file.", minimum=1024)
    uploads_bytes: int = setting(
        4 * 1024 * 1024 * 1024, "Bytes of all such files together.", minimum=1024
    )
    url_sources: bool = setting(
        True, "Whether sessions may be created from http, rtsp, rtmp, srt, udp URLs."
    )
    image_urls: bool = setting(
        False,
        "Whether pictures of `/v1` may be fetched from http and https URLs, where URL sources may "
        "lead; otherwise they come as data: URLs.",
    )
    url_allow: tuple[str, ...] = setting(
        (),
        "Where URL sources may lead besides the public internet: networks, hosts and patterns of "
        "hosts, each with a port or for any, e.g. 10.1.0.0/16,camera.lan:554,*.cam.lan.",
    )
    decoder_bytes: int = setting(
        256 * 1024 * 1024,
        "Bytes of pictures that a session's decoder may keep to refer to.",
        minimum=1024 * 1024,
    )
    picture_s: float = setting(
        2.0,
        "Seconds of a processor that one picture may take to decode; a source of slower ones ends.",
        minimum=0.01,
        maximum=60,
    )
    decode_threads: int = setting(
        1,
        "Threads of a session's decoder. Each further one holds back a picture: more than one is "
        "for few sources too large for a core, 4K at 60 pictures a second.",
        minimum=1,
        maximum=16,
    )
    hwaccel: str | None = setting(
        None,
        "Device that decodes: what it cannot do, and all where there is none, software does, and "
        "the log says so. Empty: software.",
        choices=("amf", "cuda", "d3d11va", "drm", "qsv", "vaapi", "videotoolbox", "vulkan"),
    )
    rtmp_host: str | None = setting(None, "Address of the RTMP port; empty: that of GATEWAY_HOST.")
    rtmp_port: int | None = setting(
        1935, "RTMP port; 0 picks a free one, empty: no RTMP.", minimum=0, maximum=65535
    )
    rtmps_port: int | None = setting(
        None,
        "Port of RTMP with TLS, by GATEWAY_TLS_CERT; 0 picks a free one, empty: none.",
        minimum=0,
        maximum=65535,
    )
    srt_port: int | None = setting(
        None,
        "UDP port of SRT, at the address of RTMP; needs libsrt. 0 picks a free one, empty: none.",
        minimum=0,
        maximum=65535,
    )
    srt_passphrase: str | None = setting(
        None,
        "What SRT publishers need besides their key, of 10 to 79 characters: all is encrypted.",
        secret=True,
    )
    public_host: str = setting("localhost", "Host name in the addresses given to publishers.")
    public_http_url: str | None = setting(
        None, "Where browsers reach the HTTP port, e.g. https://sightline.example; empty: derived."
    )
    public_rtmp_port: int | None = setting(
        None,
        "RTMP port in the addresses given to publishers, where another one leads here; empty: "
        "that of GATEWAY_RTMP_PORT.",
        minimum=1,
        maximum=65535,
    )
    public_grpc_port: int | None = setting(
        None,
        "gRPC port that clients are told, where another one leads here; empty: GATEWAY_GRPC_PORT.",
        minimum=1,
        maximum=65535,
    )
    webrtc_port: int = setting(
        8189,
        "Port of all WebRTC: UDP, and TCP of the same number where UDP is blocked; 0 picks a free "
        "one.",
        minimum=0,
        maximum=65535,
    )
    webrtc_addresses: tuple[str, ...] = setting(
        (),
        "Addresses or names by which others reach GATEWAY_WEBRTC_PORT, where they are not this "
        "machine's own: the public one of a NAT, of a container's host, of a load balancer; with "
        "a port, host:port, where another one leads here.",
    )
    ice_servers: tuple[str, ...] = setting(
        (), "STUN and TURN URLs for WHIP, stun:host:port or turn:user:password@host:port."
    )
    allowed_origins: tuple[str, ...] = setting(
        (), "Other sites whose pages may use the HTTP API (CORS), e.g. https://app.example."
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        "Further names that browsers may reach the HTTP port by, e.g. *.example.org; those of "
        "GATEWAY_PUBLIC_HOST and GATEWAY_PUBLIC_HTTP_URL, localhost and the address itself are.",
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        "Addresses and networks (CIDR) of reverse proxies: no limit per address holds for them, "
        "and their X-Forwarded-For says whose it is.",
    )

    auth: str | None = setting(
        None,
        "Who may do what: keys (GATEWAY_AUTH_KEYS), jwt (GATEWAY_AUTH_JWT_SECRET or "
        "GATEWAY_AUTH_JWKS_URL), http (GATEWAY_AUTH_HTTP_URL is asked), or open: everybody "
        "everything. Empty is open too, but listens on this machine alone.",
        choices=("open", "keys", "jwt", "http"),
    )
    auth_keys: Path | None = setting(
        None,
        "File of keys, a line of JSON each, read again when it changes; "
        "`python -m services.gateway.auth` makes them.",
    )
    auth_jwt_secret: Path | None = setting(
        None,
        "File of the secret (HS256) that tokens are signed with, of at least 32 bytes; of several "
        "lines, each is one. Read again when it changes.",
    )
    auth_jwks_url: str | None = setting(
        None, "Where an identity provider has its public keys, https://…/jwks.json."
    )
    auth_audience: str | None = setting(
        None, "`aud` that tokens must have; empty: it is not looked at."
    )
    auth_issuer: str | None = setting(
        None, "`iss` that tokens must have; empty: it is not looked at."
    )

    auth_http_url: str | None = setting(
        None,
        "What is asked whether somebody may do something: POST with JSON of user, password, token, "
        "ip, action and path; 2xx allows.",
    )

    tls_cert: Path | None = setting(
        None,
        "File of the certificate chain (PEM) of the gRPC and the HTTP port, read again when it "
        "changes; empty: they are not encrypted.",
    )
    tls_key: Path | None = setting(None, "File of its key (PEM, without a password).")

    redis_url: str | None = setting(
        None,
        "Redis, in which several gateways note whose session is whose; empty: there is one "
        f"gateway, and its sessions end with it. It is {REDIS_URLS}",
        secret=True,
    )
    rules_redis_url: str | None = setting(
        None,
        "Redis, in which standing rules and their events are kept; empty: that of "
        "GATEWAY_REDIS_URL; without one there are no rules.",
        secret=True,
    )
    cluster_secret: str | None = setting(
        None,
        "What gateways that share a Redis know each other by and webhooks are signed with, the "
        "same for all, of at least 32 characters.",
        secret=True,
    )
    peer_host: str | None = setting(
        None,
        "Name or address at which other gateways reach this one; empty: that of GATEWAY_HOST, or "
        "this machine's name.",
    )
    peer_port: int = setting(
        50052,
        "gRPC port for other gateways, where GATEWAY_REDIS_URL is set; 0 picks a free one.",
        minimum=0,
        maximum=65535,
    )
    lease_s: float = setting(
        3.0,
        "Seconds after its last sign of life in which a gateway's sessions are still its own.",
        minimum=1,
        maximum=60,
    )

    fps: float = setting(
        0.0, "Frames per second shown to the model; 0: what it prefers.", minimum=0, maximum=120
    )
    adaptive_rate: bool = setting(
        True,
        "Whether a live session is shown fewer frames for as long as its worker falls behind.",
    )
    fill: str = setting(
        "hold",
        "What stands for frames that a model is not sent, lost or left out for the load. hold: the "
        "one before, for as long as they would have taken, at no cost; with models that know time "
        "by the order of frames alone. none: nothing, so that later ones seem to follow at once.",
        choices=("hold", "none"),
    )
    dark_level: float = setting(
        0.1,
        "Share of white that a picture must not exceed, but for 2 % of it, to be dark.",
        minimum=0,
        maximum=1,
    )
    dark_s: float = setting(
        3.0, "Seconds until dark pictures are told; 0: never.", minimum=0, maximum=3600
    )
    covered_level: float = setting(
        0.015,
        "Share of white that the brightness of a picture may vary (its standard deviation) for a "
        "covered lens.",
        minimum=0,
        maximum=1,
    )
    covered_s: float = setting(
        3.0, "Seconds until a covered lens is told; 0: never.", minimum=0, maximum=3600
    )
    frozen_s: float = setting(
        20.0,
        "Seconds until a picture that stays the same is told: more than from one keyframe to the "
        "next, between which codecs leave nothing of a camera's noise. 0: never.",
        minimum=0,
        maximum=86400,
    )
    repeating_s: float = setting(
        20.0,
        "Seconds until pictures that come again in the same order are told; 0: never.",
        minimum=0,
        maximum=86400,
    )
    ring_frames: int = setting(
        16, "Sampled frames that wait for a worker, per session.", minimum=1, maximum=1024
    )
    grace_s: float = setting(
        60.0, "Seconds a session outlives its publisher.", minimum=0, maximum=86400
    )
    unpublished_s: float = setting(
        600.0, "Seconds a new session waits for its first publisher.", minimum=1, maximum=86400
    )
    ended_s: float = setting(
        600.0, "Seconds a session without viewers outlives its source.", minimum=1, maximum=86400
    )
    url_away_s: float = setting(
        0.0,
        "Seconds that a live URL which broke off is tried again before its session ends; 0: for "
        "ever.",
        minimum=0,
        maximum=30 * 86400,
    )
    worker_grace_s: float = setting(
        30.0, "Seconds a worker keeps a session whose frame stream broke.", minimum=0, maximum=3600
    )
    worker_patience_s: float = setting(
        1.0,
        "Seconds that a worker may say nothing at most until its sessions go to another that is "
        "ready; sooner where it acknowledges no frames and does not reply either.",
        minimum=0.2,
        maximum=60,
    )
    moving_s: float = setting(
        30.0,
        "Longest time a question may wait for a worker: while its session goes to another, or none "
        "is there.",
        minimum=0,
        maximum=3600,
    )
    resume_s: float = setting(
        60.0, "Seconds a viewer outlives its connection.", minimum=0, maximum=3600
    )

    max_sessions: int = setting(64, "Sessions at once.", minimum=1)
    tenant_sessions: int | None = setting(
        None, "Sessions of one tenant at once; empty: as many as there may be.", minimum=1
    )
    tenant_questions: int | None = setting(
        None, "Questions that one tenant may ask in a minute; empty: any number.", minimum=1
    )
    tenant_watches: int | None = setting(
        None, "Standing questions of one tenant at once; empty: any number.", minimum=1
    )
    tenant_bytes: int | None = setting(
        None,
        "Bytes a second that the programs of one tenant may push; more is read more slowly. "
        "Empty: any number.",
        minimum=65536,
    )
    max_viewers: int = setting(256, "Viewers of one session at once.", minimum=1)
    recording_s: float = setting(
        0.0,
        "Seconds of every session's video and sound that are kept, to be looked at again; 0: none.",
        minimum=0.0,
    )
    recording_bytes: int = setting(
        64 * 1024 * 1024,
        "Memory that the recording of one session may take.",
        minimum=1024 * 1024,
    )
    max_questions: int = setting(8, "Answers in flight per viewer.", minimum=1)
    max_asks: int = setting(4096, "One-shot questions in flight, over all sessions.", minimum=1)
    session_answers: int = setting(
        64,
        "Answers of one session that its worker makes at once; further questions wait, and viewers "
        "take turns.",
        minimum=1,
    )
    max_wait_s: float = setting(
        600.0, "Longest time a question may wait for its turn.", minimum=1, maximum=86400
    )
    max_watches: int = setting(8, "Standing questions per viewer.", minimum=1)
    session_watches: int = setting(
        64, "Standing questions on one session, over all viewers.", minimum=1
    )
    session_rules: int = setting(64, "Standing rules of one session.", minimum=1)
    tenant_rules: int = setting(1000, "Standing rules of one tenant.", minimum=1)
    events: int = setting(
        10_000, "Events of rules that are kept of one tenant.", minimum=1, maximum=1_000_000
    )
    events_s: float = setting(
        30 * 86400.0, "Seconds that they are kept.", minimum=60, maximum=10 * 366 * 86400
    )
    event_pictures: int = setting(
        500, "Pictures of events that are kept of one tenant; 0: none.", minimum=0, maximum=100_000
    )
    event_pictures_s: float = setting(
        7 * 86400.0,
        "Seconds that pictures of events, and their seconds before and after, are kept.",
        minimum=60,
        maximum=10 * 366 * 86400,
    )
    event_clips: int = setting(
        20,
        "Events of one tenant whose seconds before and after are kept, where the server records "
        "(GATEWAY_RECORDING_S); 0: none.",
        minimum=0,
        maximum=10_000,
    )
    event_clip_s: float = setting(
        5.0, "Seconds before an event, and after it, that are kept.", minimum=1, maximum=60
    )
    webhooks: int = setting(100, "Webhooks, over all tenants.", minimum=0, maximum=10_000)
    webhook_allow: tuple[str, ...] = setting(
        (),
        "Where webhooks may lead besides the public internet, as of GATEWAY_URL_ALLOW; http:// "
        "leads nowhere else.",
    )
    webhook_retry_s: float = setting(
        86400.0,
        "Age of an event, in seconds, from which a webhook that does not take it is sent the next.",
        minimum=1,
        maximum=30 * 86400,
    )
    mqtt_url: str | None = setting(
        None,
        "MQTT broker that events of rules are published to, mqtt://user:password@host:1883, or "
        "mqtts:// for TLS.",
        secret=True,
    )
    mqtt_topic: str = setting("sightline", "What its topics begin with.")
    mqtt_discovery: str = setting(
        "homeassistant",
        "Prefix under which Home Assistant is told of rules as entities; empty: it is not.",
    )
    delegate: str | None = setting(
        None,
        "Model or pool that is asked the hard questions of sessions which name none; a server that "
        "speaks OpenAI's chat completions joins as a worker, WORKER_MODEL=openai:URL#MODEL.",
    )
    delegate_mode: str = setting(
        "never",
        "Which questions it is asked, where a session does not say itself: never; unsure, those "
        "that the session's own model is not sure of; always.",
        choices=("never", "unsure", "always"),
    )
    delegate_confidence: float = setting(
        0.6,
        "Confidence of an answer, 0 to 1, below which its model counts as unsure.",
        minimum=0,
        maximum=1,
    )
    delegate_frames: int = setting(
        4, "Newest pictures that a delegate is shown, a second apart.", minimum=1, maximum=16
    )
    delegate_timeout_s: float = setting(
        20.0,
        "Seconds that a delegate may say nothing until the session's own model answers.",
        minimum=0.1,
        maximum=600,
    )
    delegate_answers: int = setting(
        4, "Answers of delegates at once; further questions stay with their session's.", minimum=1
    )
    max_calls: int = setting(64, "Realtime conversations by WebRTC at once.", minimum=1)
    max_speaks: int = setting(
        16, "Texts that are spoken for callers at once, and as many recordings heard.", minimum=1
    )
    pending_events: int = setting(
        1024, "Events that may wait for one slow viewer before it is cut off.", minimum=16
    )
    replay_events: int = setting(
        1024, "Events kept per viewer to be sent again on resume.", minimum=0
    )
    replay_bytes: int = setting(
        8 * 1024 * 1024, "Bytes of events kept or waiting per viewer.", minimum=65536
    )
    answer_timeout_s: float = setting(
        120.0, "Longest time one answer may take.", minimum=1, maximum=3600
    )
    open_timeout_s: float = setting(
        10.0, "Longest time to open a source or to be admitted by a worker.", minimum=1, maximum=120
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Raises ConfigError for bad values, also for those that only make sense together."""
        config = super(GatewayConfig, cls).from_env(environ)
        for kind, parts in config.discoveries():
            _check_workers(kind, parts)
        if config.tts is not None:
            _check_address("GATEWAY_TTS", config.tts)
        if config.asr is not None:
            _check_address("GATEWAY_ASR", config.asr)
        if config.dialogue is not None:
            _check_address("GATEWAY_DIALOGUE", config.dialogue)
        if config.media_root is not None and not config.media_root.is_dir():
            raise ConfigError(f"GATEWAY_MEDIA_ROOT={config.media_root} is not a folder")
        for rule in config.url_allow:
            try:
                Rule.parse(rule)
            except ValueError as error:
                raise ConfigError(f"GATEWAY_URL_ALLOW: {error}") from None
        for rule in config.webhook_allow:
            try:
                Rule.parse(rule)
            except ValueError as error:
                raise ConfigError(f"GATEWAY_WEBHOOK_ALLOW: {error}") from None
        config._check_sign_in()
        config._check_delegate()
        for name in ("redis_url", "rules_redis_url"):
            if (
                getattr(config, name) is not None
                and len(config.cluster_secret or "") < MIN_SECRET_CHARACTERS
            ):
                raise ConfigError(
                    "GATEWAY_CLUSTER_SECRET must have at least "
                    f"{MIN_SECRET_CHARACTERS} characters: GATEWAY_{name.upper()} is set"
                )
        if (config.tls_cert is None) != (config.tls_key is None):
            raise ConfigError("GATEWAY_TLS_CERT and GATEWAY_TLS_KEY are set together, or neither")
        if config.edge:
            config._check_edge()
        if config.rtmps_port is not None and config.tls_cert is None:
            raise ConfigError("GATEWAY_RTMPS_PORT needs GATEWAY_TLS_CERT and GATEWAY_TLS_KEY")
        if config.srt_passphrase is not None and not 10 <= len(config.srt_passphrase) <= 79:
            raise ConfigError("GATEWAY_SRT_PASSPHRASE has 10 to 79 characters")
        for server in config.ice_servers:
            if not server.startswith(("stun:", "stuns:", "turn:", "turns:")):
                raise ConfigError(f"GATEWAY_ICE_SERVERS: {server!r} is not a stun: or turn: URL")
        for origin in config.allowed_origins:
            parts = urlsplit(origin)
            if not (parts.scheme and parts.netloc) or parts.path:
                raise ConfigError(f"GATEWAY_ALLOWED_ORIGINS: {origin!r} is not scheme://host")
        try:
            config.hosts()
        except ValueError as error:
            raise ConfigError(f"GATEWAY_ALLOWED_HOSTS: {error}") from None
        try:
            config.trusted()
        except ValueError as error:
            raise ConfigError(f"GATEWAY_TRUSTED_PROXIES: {error}") from None
        return config

    def _check_sign_in(self) -> None:
        if self.auth is None and not is_loopback(self.host):
            raise ConfigError(
                f"GATEWAY_HOST={self.host} lets others in: set GATEWAY_AUTH to keys or jwt, or to "
                "open where everybody may do everything"
            )
        if self.auth == "keys" and self.auth_keys is None:
            raise ConfigError("GATEWAY_AUTH_KEYS must name the file of keys: GATEWAY_AUTH is keys")
        if self.auth == "jwt" and (self.auth_jwt_secret is None) == (self.auth_jwks_url is None):
            raise ConfigError(
                "GATEWAY_AUTH=jwt needs either GATEWAY_AUTH_JWT_SECRET or GATEWAY_AUTH_JWKS_URL"
            )
        if self.auth == "http" and self.auth_http_url is None:
            raise ConfigError("GATEWAY_AUTH_HTTP_URL must be set: GATEWAY_AUTH is http")
        url = urlsplit(self.auth_jwks_url or "https://none")
        if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname or "")):
            raise ConfigError(f"GATEWAY_AUTH_JWKS_URL={self.auth_jwks_url} is no https:// URL")
        if urlsplit(self.auth_http_url or "https://none").scheme not in ("http", "https"):
            raise ConfigError(f"GATEWAY_AUTH_HTTP_URL={self.auth_http_url} is no http:// URL")

    def _check_delegate(self) -> None:
        if "://" in (self.delegate or "").removeprefix("openai:"):  # it may hold a password
            raise ConfigError(
                "GATEWAY_DELEGATE is the name of a model or a pool of workers: run a worker with "
                "WORKER_MODEL=openai:URL#MODEL and WORKER_POOL, and name its pool"
            )
        if self.delegate is None and self.delegate_mode != "never":
            raise ConfigError("GATEWAY_DELEGATE_MODE needs GATEWAY_DELEGATE")

    def _check_edge(self) -> None:
        """Raise ConfigError for settings that lead to the public internet, or might: of a name
        nobody knows where it leads without asking."""
        for server in self.ice_servers:
            host = parse_ice_server(server)["urls"].partition(":")[2].partition("?")[0]
            if not is_private(host_name(host)):
                raise ConfigError(f"GATEWAY_ICE_SERVERS: {server!r} leaves the site (GATEWAY_EDGE)")
        for name in ("auth_jwks_url", "auth_http_url"):
            url = getattr(self, name)
            if url is not None and not is_private(host_name(netloc_of(url))):
                raise ConfigError(
                    f"GATEWAY_{name.upper()}={url} leaves the site (GATEWAY_EDGE): name it by a "
                    "private address"
                )
        try:
            broker = urlsplit(self.mqtt_url or "mqtt://localhost").hostname or ""
        except ValueError:
            broker = ""
        if not is_private(broker):  # the address may hold a password
            raise ConfigError(
                "GATEWAY_MQTT_URL leaves the site (GATEWAY_EDGE): name it by a private address"
            )

    def of_rules(self) -> "GatewayConfig | None":
        """These settings with the Redis of rules; None where there is none."""
        if self.rules_redis_url is None:
            return self if self.redis_url is not None else None
        return replace(self, redis_url=self.rules_redis_url)

    def certificate(self) -> Certificate | None:
        """Certificate that the ports are encrypted with. Raises ConfigError for files that cannot
        be used."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        try:
            return Certificate(self.tls_cert, self.tls_key)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(
                f"GATEWAY_TLS_CERT={self.tls_cert}, GATEWAY_TLS_KEY={self.tls_key}: {reason}"
            ) from None

    def discoveries(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Ways in which workers are found: of each place its kind and what is said of it:
        static and addresses; dns, name and port; kubernetes, namespace, service and port. Raises
        ConfigError."""
        places = (place.strip(" ,") for place in ",".join(self.workers).split(";"))
        return tuple(_discovery(place) for place in places if place) or (("static", ()),)

    def hosts(self) -> Hosts:
        """The names that browsers may know this gateway by. Raises ValueError."""
        public = (self.public_host, netloc_of(self.public_http_url or ""))
        return Hosts([*self.allowed_hosts, *(name for name in public if host_name(name))])

    def turn_rules(self) -> TurnRules:
        """When viewers have begun to speak, and when they have said what they wanted."""
        return TurnRules(speech_s=self.speech_s, silence_s=self.silence_s, more_s=self.more_s)

    def trusted(self) -> Trusted:
        """Raises ValueError."""
        return Trusted(self.trusted_proxies)


def _discovery(text: str) -> tuple[str, tuple[str, ...]]:
    if (match := _DISCOVERY.fullmatch(text)) is None:
        kind, rest = "static", text
    else:
        kind, rest = match.groups()
    if kind == "static":
        return kind, tuple(part.strip() for part in rest.split(",") if part.strip())
    parts = (_DNS if kind == "dns" else _KUBERNETES).fullmatch(rest)
    if parts is None:
        form = "dns:name:port" if kind == "dns" else "kubernetes:namespace/service:port"
        raise ConfigError(f"GATEWAY_WORKERS: {text!r} is not {form}")
    return kind, parts.groups()


def _check_workers(kind: str, parts: tuple[str, ...]) -> None:
    if not parts:
        raise ConfigError("GATEWAY_WORKERS must name at least one worker")
    port = parts[-1]
    if kind == "static":
        for address in parts:
            _check_address("GATEWAY_WORKERS", address)
    elif port.isdecimal() and not 0 < int(port) < 65536:
        raise ConfigError(f"GATEWAY_WORKERS: {port} is no port")


def _check_address(name: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{name}: {address!r} is not host:port")
