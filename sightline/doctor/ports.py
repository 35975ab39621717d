"""Check of the ports that the services listen on."""

import socket
from collections.abc import Iterator

from sightline.doctor.finding import FAULT, OK, Environ, Finding
from sightline.doctor.probes import TIMEOUT_S, date_of, is_free, stun

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
        elif is_free(port):
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


def _answers_as_ours(port: int, variable: str) -> bool:
    """HTTP ports by /healthz, RTMP's by its handshake, WebRTC's by STUN, gRPC's by HTTP/2's first
    frame."""
    try:
        if variable == "GATEWAY_WEBRTC_PORT":
            return stun("127.0.0.1", port) != ""
        if variable in ("GATEWAY_HTTP_PORT", "GATEWAY_METRICS_PORT"):
            return date_of(port) is not None
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
