"""`sightline doctor` finds real faults, says what to do, and finds nothing where there is none."""

import contextlib
import http.server
import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.gateway.sources.srt import library
from sightline import doctor
from sightline.cli import main
from sightline.doctor import model, ports, probes, srt
from sightline.doctor.finding import FAULT, OK, WARNING, Finding
from tests.certificates import Authority
from tests.eventually import PATIENCE_S


def found(check: str, **environ: str) -> list[Finding]:
    return list(doctor.CHECKS[check](environ))


def only(check: str, **environ: str) -> Finding:
    (finding,) = found(check, **environ)
    assert bool(finding.advice) == (finding.level != OK), "whoever is told of a fault is told more"
    return finding


@contextlib.contextmanager
def answering(*replies: bytes, greeting: bytes = b"") -> Iterator[int]:
    """A server that answers each message with the next of these; its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listening.accept()
                with peer:
                    peer.sendall(greeting)
                    for reply in replies:
                        peer.recv(4096)
                        peer.sendall(reply)

    threading.Thread(target=serve, daemon=True).start()
    with listening:
        yield listening.getsockname()[1]


# --- ports ------------------------------------------------------------------------------------


def test_a_port_that_another_program_has_is_a_fault() -> None:
    with answering(b"220 mail\r\n") as port:
        for variable in ("GATEWAY_RTMP_PORT", "GATEWAY_GRPC_PORT", "GATEWAY_HTTP_PORT"):
            faults = [
                each for each in found("ports", **{variable: str(port)}) if each.level == FAULT
            ]
            assert any(str(port) in each.text and variable in each.advice for each in faults)


def test_ports_of_sightline_and_free_ones_are_not() -> None:
    every = dict.fromkeys(ports.PORTS, "0")
    assert {each.level for each in found("ports", **every)} == {OK}
    with answering(bytes(3) + b"\x04" + bytes(5)) as port:
        levels = [each.level for each in found("ports", **every | {"WORKER_GRPC_PORT": str(port)})]
        assert set(levels) == {OK}
    assert FAULT in {each.level for each in found("ports", **every | {"TTS_GRPC_PORT": "many"})}


# --- SRT --------------------------------------------------------------------------------------


def test_srt_needs_its_library_and_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    assert srt.LIBRARIES == library.NAMES
    monkeypatch.setattr(srt, "_loads", lambda name: True)
    assert only("srt").level == OK
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
        other.bind(("127.0.0.1", 0))
        other.settimeout(PATIENCE_S)
        port = str(other.getsockname()[1])

        def answer() -> None:
            hello, peer = other.recvfrom(1500)
            other.sendto(hello, peer)

        threading.Thread(target=answer, daemon=True).start()
        assert [each.level for each in found("srt", GATEWAY_SRT_PORT=port)] == [OK, OK]
        monkeypatch.setattr(srt, "TIMEOUT_S", 0.05)
        here, taken = found("srt", GATEWAY_SRT_PORT=port)
        assert (here.level, taken.level) == (OK, FAULT)
        assert port in taken.text
    assert found("srt", GATEWAY_SRT_PORT=port)[-1].level == OK
    assert found("srt", GATEWAY_SRT_PORT="many")[-1].level == FAULT
    monkeypatch.setattr(srt, "_loads", lambda name: False)
    missing, _ = found("srt", GATEWAY_SRT_PORT="0")
    assert (missing.level, "libsrt" in missing.advice) == (FAULT, True)


# --- Redis ------------------------------------------------------------------------------------


def test_redis_that_answers_refuses_or_is_away() -> None:
    assert only("redis").level == OK
    with answering(b"+PONG\r\n") as port:
        assert only("redis", DIALOGUE_REDIS_URL=f"redis://127.0.0.1:{port}/0").level == OK
    with answering(b"-NOAUTH Authentication required.\r\n") as port:
        refused = only("redis", DIALOGUE_REDIS_URL=f"redis://127.0.0.1:{port}/0")
        assert (refused.level, "password" in refused.text) == (FAULT, True)
    away = only("redis", DIALOGUE_REDIS_URL="redis://:secret@127.0.0.1:1/0")
    assert away.level == FAULT
    assert "secret" not in away.text + away.advice


def test_the_password_of_the_file_is_used(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("open sesame\n")
    heard: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        peer, _ = listening.accept()
        with peer:
            heard.append(peer.recv(4096))
            peer.sendall(b"+OK\r\n")
            heard.append(peer.recv(4096))
            peer.sendall(b"+PONG\r\n")

    threading.Thread(target=serve, daemon=True).start()
    url = f"redis://127.0.0.1:{listening.getsockname()[1]}/0"
    found_ = only(
        "redis", DIALOGUE_REDIS_URL=url, DIALOGUE_REDIS_PASSWORD_FILE=str(tmp_path / "password")
    )
    assert found_.level == OK
    assert b"open sesame" in heard[0]
    listening.close()


# --- the model --------------------------------------------------------------------------------


def weights(folder: Path, size: int = 64, *, cut: int = 0) -> Path:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(size)
    (folder / "model.safetensors").write_bytes(content[: len(content) - cut])
    (folder / "config.json").write_text("{}")
    return folder


def test_a_model_is_there_whole_and_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only("model").level == OK
    assert only("model", WORKER_MODEL="someone/something").level == OK
    assert only("model", WORKER_MODEL=str(tmp_path / "none")).level == FAULT
    assert "config.json" in only("model", WORKER_MODEL=str(tmp_path)).text
    assert only("model", WORKER_MODEL=str(weights(tmp_path))).level == OK
    monkeypatch.setattr(model, "_free_memory", lambda: 100 << 20)
    short = only("model", WORKER_MODEL=str(tmp_path))
    assert (short.level, "0.1 GB" in short.text) == (FAULT, True)


@pytest.mark.parametrize("cut", [1, 64, 100])
def test_a_file_that_is_cut_short_is_found(cut: int, tmp_path: Path) -> None:
    damaged = only("model", WORKER_MODEL=str(weights(tmp_path, cut=cut)))
    assert (damaged.level, damaged.text) == (
        FAULT,
        "model.safetensors is cut short or damaged",
    )


# --- the GPU ----------------------------------------------------------------------------------


def smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_gpu_that_is_wanted_and_not_there_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        assert only("gpu").level == OK
        assert only("gpu", WORKER_DEVICE="cuda:0").level == FAULT
    smi(tmp_path, "echo 'NVIDIA H200, 140000, 143771'", monkeypatch)
    assert "140000 of 143771 MiB" in only("gpu").text
    smi(tmp_path, "echo 'driver and library differ' >&2; exit 9", monkeypatch)
    assert only("gpu").level == WARNING
    broken = only("gpu", WORKER_DEVICE="cuda")
    assert (broken.level, "driver and library differ" in broken.text) == (FAULT, True)


# --- UDP --------------------------------------------------------------------------------------


def test_datagrams_and_stun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("udp")[0].level == OK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            asked, peer = server.recvfrom(1024)
            address = struct.unpack("!I", socket.inet_aton("203.0.113.9"))[0] ^ 0x2112A442
            body = struct.pack("!HHBBHI", 0x0020, 8, 0, 1, 0, address)
            server.sendto(struct.pack("!HH", 0x0101, len(body)) + asked[4:20] + body, peer)

        threading.Thread(target=serve, daemon=True).start()
        port = server.getsockname()[1]
        # No WebRTC port: a gateway that runs here meanwhile would be looked at, too.
        settings = {"GATEWAY_WEBRTC_PORT": "0", "GATEWAY_ICE_SERVERS": f"stun:127.0.0.1:{port}"}
        _, stun = found("udp", **settings)
        assert (stun.level, "203.0.113.9" in stun.text) == (OK, True)
        monkeypatch.setattr(probes, "TIMEOUT_S", 0.2)
        _, silent = found("udp", **settings)
        assert silent.level == FAULT


# --- certificates -----------------------------------------------------------------------------


def tls(folder: Path, **of: int) -> dict[str, str]:
    Authority(folder).sign(folder / "crt", folder / "key", **of)  # type: ignore[arg-type]
    return {"GATEWAY_TLS_CERT": str(folder / "crt"), "GATEWAY_TLS_KEY": str(folder / "key")}


def test_certificates_that_hold_end_soon_have_ended_or_are_for_others(tmp_path: Path) -> None:
    assert only("certificates").level == OK
    assert only("certificates", **tls(tmp_path, days=100)).level == OK
    named = {"GATEWAY_PUBLIC_HOST": "localhost"}
    assert only("certificates", **tls(tmp_path, days=100), **named).level == OK
    other = only("certificates", **tls(tmp_path, days=100), GATEWAY_PUBLIC_HOST="a.example")
    assert (other.level, "not for a.example" in other.text) == (FAULT, True)
    assert only("certificates", **tls(tmp_path, days=2)).level == WARNING
    ended = only("certificates", **tls(tmp_path, days=-1))
    assert (ended.level, "expired" in ended.text) == (FAULT, True)


def test_files_that_do_not_belong_together_are_found(tmp_path: Path) -> None:
    environ = tls(tmp_path)
    Authority(tmp_path).sign(tmp_path / "crt2", tmp_path / "key2")
    mixed = only("certificates", **environ | {"GATEWAY_TLS_KEY": str(tmp_path / "key2")})
    assert mixed.level == FAULT
    gone = only("certificates", **environ | {"GATEWAY_TLS_CERT": str(tmp_path / "none")})
    assert (gone.level, "No such file" in gone.text) == (FAULT, True)


# --- the clock --------------------------------------------------------------------------------


def test_a_clock_that_differs_from_the_gateways_is_a_fault() -> None:
    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", "Mon, 01 Jan 2024 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(b'{"service": "gateway", "serving": true}')

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        skewed = only("clock", GATEWAY_HTTP_PORT=str(port))
        server.shutdown()
    assert (skewed.level, "gateway's clock" in skewed.text) == (FAULT, True)


# --- the command ------------------------------------------------------------------------------


def test_the_command_tells_by_its_exit_code_and_in_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ports.PORTS:
        monkeypatch.setenv(variable, "0")
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faults"] == 0
    monkeypatch.setenv("DIALOGUE_REDIS_URL", "redis://127.0.0.1:1/0")
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "fault    redis: Redis at 127.0.0.1:1 does not answer" in shown
    assert "→ start it" in shown


def test_a_check_that_fails_itself_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(environ: object) -> Iterator[Finding]:
        raise OSError("no /proc here")
        yield

    monkeypatch.setitem(doctor.CHECKS, "ports", broken)
    findings = doctor.examine({})
    assert findings[0] == Finding("ports", WARNING, "could not be looked at: no /proc here")
    assert {each.check for each in findings} == set(doctor.CHECKS)
