"""The specification of a session: what it was asked to be, checked."""

import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from services.gateway.config import GatewayConfig
from services.gateway.sessions.asked_once import AskedOnce
from services.gateway.sessions.labels import checked_labels
from sightline.errors import InvalidArgumentError, UnavailableError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2

MAX_NAME_CHARACTERS = 80
MAX_SOURCE_CHARACTERS = 2048
MAX_MODEL_CHARACTERS = 256
MAX_FPS = 120.0
MAX_GRACE_S = 86400.0
MAX_PRIORITY = 100
MEMORY_OFF = gateway_pb2.MEMORY_KIND_OFF
MEMORY_KINDS = {
    "off": MEMORY_OFF,
    "lines": gateway_pb2.MEMORY_KIND_LINES,
    "pictures": gateway_pb2.MEMORY_KIND_PICTURES,
}
NEVER = gateway_pb2.DELEGATE_MODE_NEVER
DELEGATE_MODES = {
    "never": NEVER,
    "unsure": gateway_pb2.DELEGATE_MODE_UNSURE,
    "always": gateway_pb2.DELEGATE_MODE_ALWAYS,
}
_KEY = re.compile(r"[A-Za-z0-9_.~-]{8,128}")


LIVE = ("rtsp:", "rtsps:", "rtmp:", "rtmps:", "srt:", "udp:")  # URLs of what has no beginning


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """Specification of a session: the wishes of a request, with defaults filled in."""

    name: str
    source: str  # "": publishers push
    key: str  # as its publishers say it; "": they do not, or a gateway adopted the session
    key_digest: str = ""  # what keys are compared by; "": nobody publishes
    fps: float
    window: int  # segments; 0: the worker's default
    max_pixels: int  # of a frame; 0: the worker's default
    lossless: bool
    loop: bool
    grace_s: float
    priority: int = 0
    listen: bool = False  # to what is said in its video
    labels: Mapping[str, str] = field(default_factory=dict)
    tenant: str = ""  # of who made it
    model: str = ""  # or pool that was asked for; "": the gateway's choice
    memory: gateway_pb2.MemoryKind = MEMORY_OFF  # what is kept of what leaves the window
    delegate: gateway_pb2.DelegateMode = NEVER  # which questions another model answers
    delegate_to: str = ""  # that model, or a pool; "": there is none
    asked: AskedOnce | None = None  # where the request may be repeated

    @property
    def repeats(self) -> bool:
        """Whether its pictures come again, as is meant. `loop` says nothing of a camera."""
        return self.loop and not self.source.lower().startswith(LIVE)

    @classmethod
    def of(
        cls,
        request: gateway_pb2.CreateSessionRequest,
        config: GatewayConfig,
        tenant: str = "",
        asked: AskedOnce | None = None,
    ) -> Self:
        """Check a request and fill in the defaults. Raises InvalidArgumentError."""
        options = request.options
        kind = request.WhichOneof("input")
        if kind is None:
            raise InvalidArgumentError("a session needs a source, or push")
        if kind == "source" and not 0 < len(request.source) <= MAX_SOURCE_CHARACTERS:
            raise InvalidArgumentError(
                f"a source is a path or a URL of at most {MAX_SOURCE_CHARACTERS} characters"
            )
        key = ""
        if kind == "push":
            repeated = asked.key if asked is not None else ""
            key = request.push.key or repeated or secrets.token_hex(18)
            if not _KEY.fullmatch(key):
                raise InvalidArgumentError("a key has 8 to 128 characters of A-Z a-z 0-9 _ . ~ -")
        check_model(request.model)
        check_options(options, config)
        delegate, delegate_to = delegate_of(options.delegate, options.delegate_to, config)
        if not -MAX_PRIORITY <= options.priority <= MAX_PRIORITY:
            raise InvalidArgumentError(f"priority is between -{MAX_PRIORITY} and {MAX_PRIORITY}")
        if options.delivery not in gateway_pb2.Delivery.values():
            raise InvalidArgumentError("unknown delivery")
        if options.memory not in gateway_pb2.MemoryKind.values():
            raise InvalidArgumentError("unknown kind of memory")
        return cls(
            name=options.name,
            source=request.source if kind == "source" else "",
            key=key,
            key_digest=digest_of(key, config.cluster_secret),
            fps=options.fps or config.fps,
            window=options.window,
            max_pixels=options.max_pixels,
            lossless=options.delivery == gateway_pb2.DELIVERY_LOSSLESS,
            loop=options.loop,
            grace_s=options.grace_s if options.HasField("grace_s") else config.grace_s,
            priority=options.priority,
            listen=(
                options.listen
                if options.HasField("listen")
                else config.listen and config.asr is not None
            ),
            labels=checked_labels(options.labels),
            tenant=tenant,
            model=request.model,
            memory=_memory(options.memory, config),
            delegate=delegate,
            delegate_to=delegate_to,
            asked=asked,
        )


def _memory(wanted: gateway_pb2.MemoryKind, config: GatewayConfig) -> gateway_pb2.MemoryKind:
    """The kind of memory that a session gets. Raises InvalidArgumentError for one that this gateway
    cannot give."""
    if config.dialogue is None:
        if wanted > MEMORY_OFF:
            raise InvalidArgumentError("this server remembers nothing: it has no dialogue service")
        return MEMORY_OFF
    return wanted or MEMORY_KINDS[config.memory]


def delegate_of(
    mode: gateway_pb2.DelegateMode, name: str, config: GatewayConfig
) -> tuple[gateway_pb2.DelegateMode, str]:
    """Which questions of a session are delegated, and to what model or pool. Raises
    InvalidArgumentError where it is to be asked and there is none."""
    check_model(name)
    if mode not in gateway_pb2.DelegateMode.values():
        raise InvalidArgumentError("delegate is never, unsure or always")
    mode, name = mode or DELEGATE_MODES[config.delegate_mode], name or config.delegate or ""
    if mode != NEVER and not name:
        raise InvalidArgumentError("this server has no delegate: name a model in delegate_to")
    return mode, name


def check_model(name: str) -> None:
    """Raise InvalidArgumentError for what can be the name of no model and no pool."""
    if len(name) > MAX_MODEL_CHARACTERS or not name.isprintable():
        raise InvalidArgumentError(
            f"a model has at most {MAX_MODEL_CHARACTERS} printable characters"
        )


def digest_of(key: str, secret: str | None) -> str:
    """Digest that a publishing key is kept as where others may read it; "" for no key. Gateways
    that share sessions share the `secret`: without it nobody can try keys through."""
    offered = key.encode(errors="surrogatepass")  # from a header, it can hold any byte
    return hmac.new((secret or "").encode(), offered, hashlib.sha256).hexdigest() if key else ""


def check_options(
    options: gateway_pb2.SessionOptions | gateway_pb2.UpdateSessionRequest, config: GatewayConfig
) -> None:
    """Raise InvalidArgumentError for what no session can be told, at its beginning or later, and
    UnavailableError for what is not there to do it."""
    if len(options.name) > MAX_NAME_CHARACTERS or not options.name.isprintable():
        raise InvalidArgumentError(f"a name has at most {MAX_NAME_CHARACTERS} printable characters")
    if not (math.isfinite(options.fps) and 0 <= options.fps <= MAX_FPS):
        raise InvalidArgumentError(f"fps is between 0 and {MAX_FPS:g}")
    if not (math.isfinite(options.grace_s) and 0 <= options.grace_s <= MAX_GRACE_S):
        raise InvalidArgumentError(f"grace_s is between 0 and {MAX_GRACE_S:g}")
    if options.listen and config.asr is None:
        raise UnavailableError("this server does not hear", reason=Reason.VOICE_NOT_CONFIGURED)
