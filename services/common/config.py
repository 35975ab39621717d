"""Frozen configuration from environment variables.

A service's configuration is a frozen dataclass; each field is one variable, named by the class's
prefix and the field. Bad values fail at start with the name of the variable.
"""

import difflib
import math
import os
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_KINDS = {
    int: "a whole number, without a unit",
    float: "a number, without a unit",
    bool: "true or false",
    Path: "a path",
}
MOST = 2**63 - 1  # of any whole number
ALIKE = 0.8  # from which two names are taken for one that was meant
# What Kubernetes and Docker tell of a service that is called like ours.
_OF_LINKS = re.compile(r"SERVICE_(HOST|PORT).*|PORT(_\d+_.*)?")


class ConfigError(Exception):
    """A variable with a bad value; the message names it."""


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    secret: bool = False,
    filled: bool = False,
    address: bool = False,
) -> Any:
    """A configuration field: its default, one line for operators, and what values are allowed.

    What is `secret` is in no text that is made of the configuration. filled: empty is not allowed;
    address: only host:port is.
    """
    metadata = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "filled": filled,
        "address": address,
    }
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvConfig:
    """Base of every configuration. Subclasses set `prefix` and declare fields with `setting`.

    Field types: str, int, float, bool, Path, tuple[str, ...] (comma separated), or any of them
    `| None`, where an empty variable means None.
    """

    prefix: ClassVar[str] = ""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the environment. Raises ConfigError naming the first bad variable."""
        environ = os.environ if environ is None else environ
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        _check_names(cls, environ)
        for item in fields(cls):
            name = variable(cls, item)
            if name in environ:
                values[item.name] = _parse(name, environ[name], hints[item.name], item.metadata)
            elif item.default is MISSING and item.default_factory is MISSING:
                raise ConfigError(f"{name} must be set: {item.metadata.get('help', '')}")
        return cls(**values)


def variable(config: type[EnvConfig], item: Field[Any]) -> str:
    """The environment variable of a field."""
    return f"{config.prefix}{item.name.upper()}"


def rows(config: type[EnvConfig]) -> Iterator[tuple[str, str, str]]:
    """(variable, default, help) of every field, for the generated documentation."""
    for item in fields(config):
        default = "" if item.default in (None, MISSING, "") else str(item.default)
        if isinstance(item.default, tuple):
            default = ",".join(item.default)
        text = item.metadata.get("help", "")
        if choices := item.metadata.get("choices"):
            text += " One of: " + ", ".join(choices) + "."
        yield variable(config, item), default, text


def _check_names(config: type[EnvConfig], environ: Mapping[str, str]) -> None:
    """Raise ConfigError for a variable of this prefix that there is not, and that looks as if
    another were meant: its value would be missing where nobody looks for it."""
    if not config.prefix:
        return
    known = [item.name.upper() for item in fields(config)]
    for name in environ:
        rest = name.removeprefix(config.prefix)
        if rest == name or rest in known or _OF_LINKS.fullmatch(rest):
            continue
        if meant := difflib.get_close_matches(rest.upper(), known, 1, ALIKE):
            raise ConfigError(f"there is no {name}: {config.prefix}{meant[0]} may be meant")


def _parse(name: str, text: str, hint: Any, metadata: Mapping[str, Any]) -> Any:
    text = text.rstrip("\r\n")  # of a file whose content was taken
    if any(character < " " or character == "\x7f" for character in text):  # it may be a secret
        raise ConfigError(f"{name} holds a line break or another control character")
    if metadata.get("filled") and not text.strip():
        raise ConfigError(f"{name} must not be empty")
    if get_origin(hint) in (types.UnionType, Union):
        if text == "":
            return None
        hint = next(option for option in get_args(hint) if option is not type(None))
    try:
        value = _convert(text, hint)
    except (ValueError, RuntimeError) as error:  # the latter: no home folder for `~`
        raise ConfigError(f"{name}={text!r} is not {_KINDS.get(hint, 'understood')}") from error
    if type(value) is int and abs(value) > MOST:
        raise ConfigError(f"{name}={text} is beyond all numbers that are meant")
    if isinstance(value, float) and not math.isfinite(value):  # NaN would pass any limit
        raise ConfigError(f"{name}={text!r} is not a finite number")
    minimum, maximum = metadata.get("minimum"), metadata.get("maximum")
    if minimum is not None and value < minimum:
        raise ConfigError(f"{name}={text} is below the minimum {minimum}")
    if maximum is not None and value > maximum:
        raise ConfigError(f"{name}={text} is above the maximum {maximum}")
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise ConfigError(f"{name}={text!r} is not one of {', '.join(choices)}")
    if metadata.get("address"):
        check_address(name, text)
    return value


def check_address(name: str, address: str) -> None:
    """Raise ConfigError for what is not host:port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{name}: {address!r} is not host:port")


def _convert(text: str, hint: Any) -> Any:
    if hint is bool:
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise ValueError(text)
    if get_origin(hint) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if hint is Path:
        return Path(text).expanduser()
    return hint(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig(EnvConfig):
    """Settings of every service. `host` is where its ports listen."""

    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 in containers.", filled=True)
    grpc_port: int = setting(0, "gRPC port; 0 picks a free one.", minimum=0, maximum=65535)
    http_port: int = setting(
        0, "HTTP port of /healthz; 0 picks a free one.", minimum=0, maximum=65535
    )
    metrics_port: int = setting(
        0,
        "HTTP port of /metrics, for operators alone; 0 picks a free one.",
        minimum=0,
        maximum=65535,
    )
    metrics_host: str | None = setting(
        None, "Address of the port of /metrics; empty: that of the other ports."
    )
    drain_s: float = setting(
        10.0, "Seconds that running calls get to end after SIGTERM.", minimum=0, maximum=600
    )
    edge: bool = setting(
        False,
        "Whether nothing may leave this site: what would lead to the public internet is refused, "
        "at start or when it is asked for.",
    )
    peer_ca: Path | None = setting(
        None,
        "Authority (PEM) of the services' certificates: with it they speak mutual TLS among each "
        "other. Read again when it changes, as are the next two.",
    )
    peer_cert: Path | None = setting(
        None, "Certificate chain (PEM) that this service shows the others."
    )
    peer_key: Path | None = setting(None, "Its key (PEM, without a password).")
    peer_name: str | None = setting(
        None, "Name that the certificates of all peers are for; empty: the host that is dialled."
    )
    traces: str | None = setting(
        None,
        "Where OpenTelemetry's spans go, OTLP over HTTP, e.g. http://collector:4318; empty: there "
        "are none. Needs services/common/requirements-traces.txt.",
    )
    traces_share: float = setting(
        1.0, "Share of the traces that begin here which are kept.", minimum=0, maximum=1
    )
    log_level: str = setting(
        "info", "Least level that is logged.", choices=("debug", "info", "warning", "error")
    )
