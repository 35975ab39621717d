"""Settings of `make run`."""

import contextlib
import os
import random
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

from services.common.config import ConfigError, EnvConfig, setting, variable
from services.local.clip import STORY
from sightline.presets import PRESETS, model_of

_UNASSIGNED = range(20_000, 32_000)  # below what systems give to connections


def _port(default: int, help: str) -> int:
    number: int = setting(default, f"{help} 0 picks a free one.", minimum=0, maximum=65535)
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConfig(EnvConfig):
    """The suite on one machine. Variables of the services themselves are passed on to them."""

    prefix: ClassVar[str] = ""

    workers: int = setting(1, "Inference workers.", minimum=1, maximum=16)
    model: str | None = setting(
        None,
        "What watches, by a short name: " + ", ".join(preset.name for preset in PRESETS) + "; "
        "`sightline models` tells what each needs.",
        choices=tuple(preset.name for preset in PRESETS),
    )
    worker_model: str = setting(
        STORY.name,
        "What watches, as in WORKER_MODEL; `goods` and `builtin` are shown their worlds.",
    )
    delegate: str | None = setting(
        None,
        "What answers the questions that it is unsure of, as in WORKER_MODEL, "
        "openai:http://127.0.0.1:11434/v1#qwen3-vl:4b; GATEWAY_DELEGATE_MODE says which others.",
    )
    https: bool = setting(
        False,
        "Whether phones in this network may use the page: over HTTPS, with a certificate that this "
        "machine signs itself, and a token that is printed.",
    )
    source: str | None = setting(None, "Video to show, a file or a URL; empty: a generated one.")
    fps: float = setting(
        0.0, "Frames per second shown to the model; 0: what it prefers.", minimum=0, maximum=120
    )
    dialogue_redis_url: str | None = setting(
        None,
        "Redis to keep conversations in; empty: one of the suite's own, thrown away at its end.",
        secret=True,
    )
    gateway_grpc_port: int = _port(50051, "gRPC of the gateway: SDK and command line.")
    gateway_http_port: int = _port(8080, "Page and HTTP API of the gateway.")
    gateway_metrics_port: int = _port(9101, "Metrics of the gateway.")
    gateway_rtmp_port: int = _port(1935, "RTMP.")
    gateway_webrtc_port: int = _port(8189, "WebRTC, by UDP and by TCP.")
    dialogue_grpc_port: int = _port(50053, "gRPC of dialogue.")
    dialogue_metrics_port: int = _port(9102, "Metrics of dialogue.")
    tts_grpc_port: int = _port(50054, "gRPC of tts.")
    tts_metrics_port: int = _port(9103, "Metrics of tts.")
    asr_grpc_port: int = _port(50055, "gRPC of asr, where what it needs is installed.")
    asr_metrics_port: int = _port(9104, "Metrics of asr.")
    worker_grpc_port: int = _port(50060, "gRPC of the first worker; others follow.")
    worker_metrics_port: int = _port(9110, "Metrics of the first worker; others follow.")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Raises ConfigError for bad values. An empty variable counts as unset."""
        environ = os.environ if environ is None else environ
        given = {name: value for name, value in environ.items() if value != ""}
        config = super(LocalConfig, cls).from_env(given)
        if "GATEWAY_TLS_CERT" in given:
            raise ConfigError("GATEWAY_TLS_CERT: on one machine the gateway is not encrypted")
        if config.model is None:
            return config
        if "WORKER_MODEL" in given:
            raise ConfigError("MODEL and WORKER_MODEL both say what watches: set one of them")
        return replace(config, worker_model=model_of(config.model))

    @property
    def num_workers(self) -> int:
        """Workers in all, those that watch first."""
        return self.workers + (self.delegate is not None)

    def on_free_ports(self) -> Self:
        """These settings with every port picked by the system."""
        ports: dict[str, Any] = dict.fromkeys(self._port_names(), 0)
        return replace(self, **ports)

    def with_ports(self) -> Self:
        """These settings with real ports: free ones for 0, and those given checked to be free.

        Raises ConfigError naming the first busy port and its variable.
        """
        ports: dict[str, Any] = {}
        with contextlib.ExitStack() as held:  # until all are picked, so that none comes twice
            for name in self._port_names():
                port = getattr(self, name)
                count = self.num_workers if name.startswith("worker_") else 1
                if port == 0:
                    ports[name] = _take_free(count, held)
                    continue
                for number in range(port, port + count):
                    if not _take(number, held):
                        free = _take_free(count, held)
                        raise ConfigError(
                            f"port {number} is in use: choose another with {name.upper()}, "
                            f"e.g. {name.upper()}={free}"
                        )
        return replace(self, **ports)

    def _port_names(self) -> Iterator[str]:
        for item in fields(self):
            if item.name.endswith("_port"):
                assert variable(type(self), item) == item.name.upper()
                yield item.name


def _take(port: int, held: contextlib.ExitStack) -> bool:
    """Whether the port is free; it is bound until `held` closes."""
    probe = held.enter_context(socket.socket())
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", port))
        probe.listen()  # of two that are bound alone, SO_REUSEADDR lets both
    except OSError:
        return False
    return True


def _take_free(count: int, held: contextlib.ExitStack) -> int:
    """The first of `count` adjacent free ports. None that the system gives to connections: one of
    those might have it before the process for which it is meant."""
    for _ in range(100):
        first = random.choice(_UNASSIGNED)
        if all(_take(first + more, held) for more in range(count)):
            return first
    raise ConfigError("no free ports on 127.0.0.1")
