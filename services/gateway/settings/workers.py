"""Settings of where workers are."""

import re
from dataclasses import dataclass

from services.common.config import ConfigError, check_address, setting

# A host may be called "dns" and an address be a target of gRPC's own, dns:///host:port.
_DISCOVERY = re.compile(r"(static|dns|kubernetes):(?!//)([^,]*[:/].*)")
_DNS = re.compile(r"([^\s,/:]+|\[[0-9A-Fa-f:.]+\]):(\d+)")
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_KUBERNETES = re.compile(rf"({_LABEL})/({_LABEL}):(\d+|[a-z0-9](?:[-a-z0-9]{{0,13}}[a-z0-9])?)")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Where inference workers are found, and which of them sessions get that name none."""

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

    def check_workers(self) -> None:
        """Raise ConfigError where workers could not be found."""
        for kind, parts in self.discoveries():
            _check_workers(kind, parts)

    def discoveries(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Ways in which workers are found: of each place its kind and what is said of it:
        static and addresses; dns, name and port; kubernetes, namespace, service and port. Raises
        ConfigError."""
        places = (place.strip(" ,") for place in ",".join(self.workers).split(";"))
        return tuple(_discovery(place) for place in places if place) or (("static", ()),)


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
            check_address("GATEWAY_WORKERS", address)
    elif port.isdecimal() and not 0 < int(port) < 65536:
        raise ConfigError(f"GATEWAY_WORKERS: {port} is no port")
