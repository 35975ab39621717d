"""Check of Redis, asked in its own words."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sightline.doctor.finding import FAULT, OK, Environ, Finding
from sightline.doctor.probes import TIMEOUT_S


def redis(environ: Environ) -> Iterator[Finding]:
    """Redis answers, and takes what is written."""
    url = environ.get("DIALOGUE_REDIS_URL", "")
    if not url:
        yield Finding("redis", OK, "the suite starts one of its own")
        return
    parts = urlsplit(url)
    place = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
    try:
        said = _ask_redis(url, _password(environ, parts.password))
    except (OSError, ValueError) as error:
        yield Finding(
            "redis",
            FAULT,
            f"Redis at {place} does not answer: {error}",
            "start it, or say where it is with DIALOGUE_REDIS_URL",
        )
        return
    if said.startswith("+PONG"):
        yield Finding("redis", OK, f"Redis at {place} answers")
    elif said.startswith(("-NOAUTH", "-WRONGPASS", "-ERR AUTH")):
        advice = "give the right password in DIALOGUE_REDIS_URL or DIALOGUE_REDIS_PASSWORD_FILE"
        yield Finding("redis", FAULT, f"Redis at {place} refuses the password", advice)
    else:
        yield Finding(
            "redis", FAULT, f"Redis at {place} says {said[:80]!r}", "look at what it complains of"
        )


def _password(environ: Environ, given: str | None) -> str:
    file = environ.get("DIALOGUE_REDIS_PASSWORD_FILE", "")
    return Path(file).read_text().strip() if file else given or ""


def _ask_redis(url: str, password: str) -> str:
    """The last line that Redis answers to AUTH, where there is a password, and PING."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(TIMEOUT_S)
        peer.connect(parts.path)
    else:
        address = (parts.hostname or "localhost", parts.port or 6379)
        peer = socket.create_connection(address, TIMEOUT_S)
        if parts.scheme == "rediss":
            peer = ssl.create_default_context().wrap_socket(peer, server_hostname=address[0])
    with peer:
        lines = []
        commands = [["PING"]]
        if password:
            commands.insert(0, ["AUTH", *([parts.username] if parts.username else []), password])
        for command in commands:
            words = [f"${len(word.encode())}\r\n{word}\r\n" for word in command]
            peer.sendall(f"*{len(command)}\r\n{''.join(words)}".encode())
            lines.append(peer.recv(256).decode(errors="replace").strip())
            if lines[-1].startswith("-"):
                break
    return lines[-1]
