"""`sightline doctor`: what on this machine keeps Sightline from running, and what to do about it.

It reads the services' own variables (docs/configuration.md), looks without changing anything, and
needs nothing but Python's own library: a machine on which the services do not start is where it is
used. Each check is a function that gives findings.
"""

import ctypes
import datetime
import email.utils
import http.client
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["CHECKS", "Finding", "examine"]

OK, WARNING, FAULT = "ok", "warning", "fault"
TIMEOUT_S = 3.0
SOON = datetime.timedelta(days=14)
MOST_SKEW_S = 2.0
RESERVE_BYTES = 512 << 20  # of memory beside a model's weights
PORTS = {  # variable: port and what it is for, as on one machine
    "GATEWAY_GRPC_PORT": (50051, "gRPC of the gateway"),
    "GATEWAY_HTTP_PORT": (8080, "page and HTTP API"),
    "GATEWAY_METRICS_PORT": (9101, "metrics of the gateway"),
    "GATEWAY_RTMP_PORT": (1935, "RTMP"),
    "GATEWAY_WEBRTC_PORT": (8189, "WebRTC"),
    "DIALOGUE_GRPC_PORT": (50053, "gRPC of dialogue"),
    "TTS_GRPC_PORT": (50054, "gRPC of tts"),
    "ASR_GRPC_PORT": (50055, "gRPC of asr"),
    "WORKER_GRPC_PORT": (50060, "gRPC of the worker"),
}
Environ = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Finding:
    """Finding of a check. `level`: ok, warning or fault; `advice`: what to do where it is not
    ok."""

    check: str
    level: str
    text: str
    advice: str = ""


def examine(environ: Environ) -> list[Finding]:
    """Every check, one after the other; one that cannot be made is a warning."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            findings += check(environ)
        except (OSError, ValueError) as error:
            findings.append(Finding(name, WARNING, f"could not be looked at: {error}"))
    return findings


# --- ports ------------------------------------------------------------------------------------


def ports(environ: Environ) -> Iterator[Finding]:
    """Each port is free, or Sightline's own."""
    for variable, (usual, purpose) in PORTS.items():
        text = environ.get(variable, "") or str(usual)
        if not (text.isdecimal() and int(text) < 65536):
            yield Finding("ports", FAULT, f"{variable}={text!r} is no port", f"set {variable}")
            continue
        port = int(text)
        if port == 0:
            yield Finding("ports", OK, f"{purpose}: any free port")
        elif _is_free(port):
            yield Finding("ports", OK, f"{purpose}: {port} is free")
        elif _answers_as_ours(port, variable):
            yield Finding("ports", OK, f"{purpose}: {port} is Sightline's")
        else:
            yield Finding(
                "ports",
                FAULT,
                f"{purpose}: {port} is taken by another program",
                f"end that program, or choose another port with {variable}",
            )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
    return True


def _answers_as_ours(port: int, variable: str) -> bool:
    """HTTP ports by /healthz, RTMP's by its handshake, WebRTC's by STUN, gRPC's by HTTP/2's first
    frame."""
    try:
        if variable == "GATEWAY_WEBRTC_PORT":
            return _stun("127.0.0.1", port) != ""
        if variable in ("GATEWAY_HTTP_PORT", "GATEWAY_METRICS_PORT"):
            return _date_of(port) is not None
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as peer:
            peer.settimeout(TIMEOUT_S)
            if variable == "GATEWAY_RTMP_PORT":
                peer.sendall(b"\x03" + bytes(1536))
                return peer.recv(1) == b"\x03"
            peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            frame = peer.recv(9)
            return len(frame) >= 4 and frame[3] == 4  # SETTINGS
    except (OSError, ValueError):
        return False


def _date_of(port: int) -> float | None:
    """The clock of a service of ours at an HTTP port, in seconds since the epoch; None where none
    answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        reply = connection.getresponse()
        if b'"serving"' not in reply.read(4096):
            return None
        date = reply.getheader("Date")
        return email.utils.parsedate_to_datetime(date).timestamp() if date else time.time()
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


# --- Redis ------------------------------------------------------------------------------------


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


# --- the model --------------------------------------------------------------------------------


def model(environ: Environ) -> Iterator[Finding]:
    """The model's folder is whole, and this machine has room for it."""
    name = environ.get("WORKER_MODEL", "") or "builtin"
    if name == "builtin":
        yield Finding("model", OK, "builtin comes with Sightline")
        return
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith(("/", ".", "~")):
            yield Finding(
                "model", FAULT, f"{name} is no folder", "name a folder or a model of the hub"
            )
        else:
            yield Finding("model", OK, f"{name} is downloaded from the hub when it is needed")
        return
    missing = [each for each in ("config.json",) if not (folder / each).is_file()]
    weights = sorted(folder.glob("*.safetensors"))
    if missing or not weights:
        what = missing[0] if missing else "*.safetensors"
        yield Finding("model", FAULT, f"{folder} has no {what}", "copy or download the model again")
        return
    cut = [path.name for path in weights if not _is_whole(path)]
    if cut:
        yield Finding(
            "model", FAULT, f"{cut[0]} is cut short or damaged", "copy or download it again"
        )
        return
    size, free = sum(path.stat().st_size for path in weights), _free_memory()
    if size + RESERVE_BYTES > free:
        yield Finding(
            "model",
            FAULT,
            f"{_gb(size)} of weights, {_gb(free)} of memory are free",
            "take a smaller model (`sightline models`), or WORKER_QUANTIZATION=int8",
        )
    else:
        yield Finding("model", OK, f"{_gb(size)} of weights, {_gb(free)} of memory are free")


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            return False
        (length,) = struct.unpack("<Q", head)
        size = path.stat().st_size
        if length > min(size - 8, 100 << 20):
            return False
        header = json.loads(file.read(length))
    ends = [each["data_offsets"][1] for key, each in header.items() if key != "__metadata__"]
    return bool(size == 8 + length + max(ends, default=0))


def _free_memory() -> int:
    """Bytes of host memory that may be taken, within the container's limit."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    group = Path("/sys/fs/cgroup")
    try:
        most = int((group / "memory.max").read_text())
        free = min(free, most - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no limit
    return max(0, free)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


# --- the GPU ----------------------------------------------------------------------------------


def gpu(environ: Environ) -> Iterator[Finding]:
    """A GPU that is wanted is there, and answers."""
    wanted = environ.get("WORKER_DEVICE", "auto") or "auto"
    program = shutil.which("nvidia-smi")
    if program is None:
        if wanted.startswith("cuda"):
            advice = "install NVIDIA's driver, give the container its GPU, or set WORKER_DEVICE=cpu"
            yield Finding("gpu", FAULT, f"WORKER_DEVICE={wanted}, but there is no driver", advice)
        else:
            yield Finding("gpu", OK, "no GPU: the model runs on the CPU")
        return
    query = ["--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=20, check=False
        )
    except subprocess.TimeoutExpired:
        yield Finding("gpu", FAULT, "the driver does not answer", "restart the machine")
        return
    lines = [line for line in asked.stdout.splitlines() if line.strip()]
    if asked.returncode != 0 or not lines:
        said = (asked.stderr or asked.stdout).strip().splitlines()
        level = FAULT if wanted.startswith("cuda") else WARNING
        words = said[0] if said else "no GPU was found"
        yield Finding("gpu", level, f"nvidia-smi: {words}", "see that driver and GPU fit together")
        return
    for line in lines:
        name, free, total = (part.strip() for part in line.split(","))
        yield Finding("gpu", OK, f"{name}: {free} of {total} MiB are free")


# --- UDP --------------------------------------------------------------------------------------


def udp(environ: Environ) -> Iterator[Finding]:
    """WebRTC's datagrams get through: to this machine's own address, and to STUN servers."""
    own = _own_address()
    try:
        _echo(own)
        yield Finding("udp", OK, f"datagrams reach {own}")
    except OSError as error:
        yield Finding(
            "udp",
            FAULT,
            f"no datagram reaches {own}: {error}",
            "let the firewall pass UDP, or publish by RTMP",
        )
    yield from _webrtc(environ)
    for server in filter(None, environ.get("GATEWAY_ICE_SERVERS", "").split(",")):
        scheme, _, rest = server.strip().partition(":")
        if scheme != "stun":
            continue
        host, _, port = rest.partition(":")
        try:
            seen = _stun(host, int(port or 3478))
            yield Finding("udp", OK, f"{server.strip()} sees this machine as {seen}")
        except (OSError, ValueError) as error:
            advice = "let the firewall pass UDP, or take another server in GATEWAY_ICE_SERVERS"
            yield Finding("udp", FAULT, f"{server.strip()} does not answer: {error}", advice)


def _webrtc(environ: Environ) -> Iterator[Finding]:
    """Whether the gateway's WebRTC port, where it listens, is reached by each of its addresses."""
    usual = environ.get("GATEWAY_WEBRTC_PORT", "") or str(PORTS["GATEWAY_WEBRTC_PORT"][0])
    if not usual.isdecimal() or int(usual) == 0 or _is_free(int(usual)):
        return
    named = environ.get("GATEWAY_WEBRTC_ADDRESSES", "").split(",")
    for address in [item.strip() for item in named if item.strip()] or [_own_address()]:
        host, number = address, usual
        if address.count(":") == 1 or address.startswith("["):
            bare, _, port = address.rpartition(":")
            host, number = (bare, port) if port.isdecimal() else (address, usual)
        try:
            seen = _stun(host.strip("[]"), int(number))
            yield Finding(
                "udp", OK, f"WebRTC at {host}:{number} by UDP sees this machine as {seen}"
            )
        except (OSError, ValueError) as error:
            yield Finding(
                "udp",
                FAULT,
                f"WebRTC at {host}:{number} does not answer by UDP: {error}",
                "let the firewall or NAT pass UDP and TCP to GATEWAY_WEBRTC_PORT, and name in "
                "GATEWAY_WEBRTC_ADDRESSES what leads to it",
            )


def _own_address() -> str:
    """This machine's address in its network; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _echo(address: str) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        here.bind((address, 0))
        here.settimeout(TIMEOUT_S)
        there.sendto(b"sightline", here.getsockname())
        here.recv(16)


def _stun(host: str, port: int) -> str:
    """The address that a STUN server sees (RFC 8489). Raises OSError, ValueError."""
    magic, transaction = 0x2112A442, os.urandom(12)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(TIMEOUT_S)
        peer.connect((host, port))
        # With a name, as a server that answers nothing longer than its question wants it.
        name = b"sightline doctor".ljust(32)
        attribute = struct.pack("!HH", 0x8022, len(name)) + name
        peer.send(struct.pack("!HHI", 1, len(attribute), magic) + transaction + attribute)
        reply = peer.recv(1024)
    if len(reply) < 20 or reply[:2] != b"\x01\x01" or reply[8:20] != transaction:
        raise ValueError("its answer is not STUN's")
    place = 20
    while place + 4 <= len(reply):
        kind, length = struct.unpack_from("!HH", reply, place)
        if kind == 0x0020 and length >= 8:
            number = struct.unpack_from("!I", reply, place + 8)[0] ^ magic
            return socket.inet_ntoa(struct.pack("!I", number))
        place += 4 + length + (-length % 4)
    raise ValueError("its answer names no address")


# --- certificates -----------------------------------------------------------------------------


def certificates(environ: Environ) -> Iterator[Finding]:
    """Certificates that are named can be used, for the name that is told, and for a while yet."""
    named = [prefix for prefix in _CERTIFIED if environ.get(f"{prefix}_CERT")]
    if not named:
        yield Finding("certificates", OK, "none are named: nothing is encrypted")
    for prefix in named:
        name = environ.get("GATEWAY_PUBLIC_HOST", "") if prefix == "GATEWAY_TLS" else ""
        yield _certificate(prefix, environ, name)


_CERTIFIED = ("GATEWAY_TLS", "GATEWAY_PEER", "WORKER_PEER", "DIALOGUE_PEER", "TTS_PEER", "ASR_PEER")


def _certificate(prefix: str, environ: Environ, name: str) -> Finding:
    certificate, key = environ[f"{prefix}_CERT"], environ.get(f"{prefix}_KEY", "")
    where = f"{prefix}_CERT={certificate}"
    try:
        shown = _shown(certificate, key)
    except ssl.SSLCertVerificationError as error:
        advice = "have a new certificate made; it is read without a restart"
        return Finding("certificates", FAULT, f"{where}: {error.verify_message}", advice)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        advice = f"see that {prefix}_CERT and {prefix}_KEY are readable and belong together"
        return Finding("certificates", FAULT, f"{where}: {reason}", advice)
    ends_s = ssl.cert_time_to_seconds(str(shown["notAfter"]))
    left = datetime.timedelta(seconds=ends_s - time.time())
    names = [str(value) for _, value in shown.get("subjectAltName", ())]
    if name and not any(_matches(each, name) for each in names):
        advice = "have one made for that name, or change GATEWAY_PUBLIC_HOST"
        words = f"{where} is for {', '.join(names) or 'no name'}, not for {name}"
        return Finding("certificates", FAULT, words, advice)
    if left < SOON:
        return Finding(
            "certificates", WARNING, f"{where} ends in {left.days} days", "have a new one made"
        )
    return Finding("certificates", OK, f"{where} holds for {left.days} days more")


def _shown(certificate: str, key: str) -> Mapping[str, Any]:
    """Certificate as a client would read it, after a handshake in memory."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key or None, password=lambda: b"")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].getpeercert() or {}


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("*."):
        return name.partition(".")[2] == pattern[2:]
    return pattern.lower() == name.lower()


# --- the clock --------------------------------------------------------------------------------


def clock(environ: Environ) -> Iterator[Finding]:
    """The clock is set by somebody, and tells a running gateway's time."""
    year = datetime.datetime.now(datetime.UTC).year
    advice = "let the machine's clock be set (NTP): capture times and tokens depend on it"
    if not 2025 <= year <= 2100:
        yield Finding("clock", FAULT, f"it is the year {year} here", advice)
    port = environ.get("GATEWAY_HTTP_PORT", "") or str(PORTS["GATEWAY_HTTP_PORT"][0])
    theirs = _date_of(int(port)) if port.isdecimal() else None
    if theirs is not None and abs(theirs - time.time()) > MOST_SKEW_S:
        skew_s = theirs - time.time()
        yield Finding("clock", FAULT, f"the gateway's clock is {skew_s:+.0f} s from ours", advice)
    elif _is_set() is False:
        yield Finding("clock", WARNING, "nobody keeps the clock right", advice)
    else:
        yield Finding("clock", OK, datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds"))


def _is_set() -> bool | None:
    """Whether the kernel's clock is kept by somebody; None where it does not say."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    state = adjtimex(ctypes.byref(ctypes.create_string_buffer(512)))  # modes 0: only ask
    return None if state < 0 else state != 5  # TIME_ERROR


CHECKS: dict[str, Callable[[Environ], Iterator[Finding]]] = {
    "ports": ports,
    "redis": redis,
    "model": model,
    "gpu": gpu,
    "udp": udp,
    "certificates": certificates,
    "clock": clock,
}
