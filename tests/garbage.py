"""Bytes no server asked for."""

import random
import socket

import grpc

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BEGINNINGS = (
    b"",
    HTTP2_PREFACE,
    HTTP2_PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",  # empty SETTINGS, then garbage frames
    b"GET /healthz HTTP/1.1\r\n",
    b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
)


def throw_at_port(port: int, *, seed: int, times: int = 40) -> None:
    """Open `times` connections to 127.0.0.1:`port`, send random bytes, leave without a word."""
    generator = random.Random(seed)
    for number in range(times):
        beginning = BEGINNINGS[number % len(BEGINNINGS)]
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.settimeout(0.05)
            try:
                connection.sendall(beginning + generator.randbytes(generator.randrange(4000)))
                connection.recv(4096)
            except OSError:
                pass  # it hung up on us, or says nothing: both are fine


def throw_at_methods(
    address: str, methods: list[str], *, seed: int, times: int = 10
) -> set[grpc.StatusCode]:
    """Call `/service/Method`s with bytes that are no message; the statuses that came back."""
    generator = random.Random(seed)
    codes = set()
    with grpc.insecure_channel(address) as channel:
        for method in methods:
            for _ in range(times):
                # 0xff cannot start a field: these bytes are never a valid message.
                payload = b"\xff" * 11 + generator.randbytes(generator.randrange(2000))
                try:
                    for _reply in channel.stream_stream(method)(iter([payload]), timeout=5):
                        pass
                    codes.add(grpc.StatusCode.OK)
                except grpc.RpcError as error:
                    codes.add(error.code())  # type: ignore[attr-defined]
    return codes
