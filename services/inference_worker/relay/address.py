"""Address of a relayed model: `openai:http://host:11434/v1#qwen3-vl:4b`."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from services.common.config import ConfigError
from services.common.hosts import is_private
from services.inference_worker.config import RELAY, WorkerConfig

_SITE = (".local", ".internal", ".lan", ".home.arpa", ".svc")  # names that no public DNS has


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAddress:
    """Where a model server's API begins, without a slash at the end, and which of its models is
    asked; "": the only one that it has. `key` is a secret, and in no text that is made of it."""

    url: str
    model: str
    key: str

    @classmethod
    def of(cls, config: WorkerConfig) -> Self:
        """Raises ConfigError for what is no such address, and for a key that cannot be read."""
        url, _, model = config.model.removeprefix(RELAY).partition("#")
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            host, parts = "", urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigError(
                "WORKER_MODEL: a model server is named like openai:http://127.0.0.1:11434/v1#qwen3-vl"
            )
        if parts.username is not None or parts.query:
            raise ConfigError("WORKER_MODEL: a key belongs into WORKER_RELAY_KEY, not into the URL")
        if config.edge and not (is_private(host) or "." not in host or host.endswith(_SITE)):
            raise ConfigError("WORKER_MODEL: WORKER_EDGE allows no model server beyond this site")
        return cls(url=url.rstrip("/"), model=model, key=_key(config))

    def __repr__(self) -> str:
        return f"RelayAddress({self.url!r}, {self.model!r})"


def _key(config: WorkerConfig) -> str:
    if config.relay_key_file is None:
        return config.relay_key or ""
    if config.relay_key:
        raise ConfigError("WORKER_RELAY_KEY and WORKER_RELAY_KEY_FILE both give a key: set one")
    try:
        return config.relay_key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"WORKER_RELAY_KEY_FILE cannot be read: {error}") from error
