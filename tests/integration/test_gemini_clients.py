"""The Gemini Live wire with the clients that people have: Google's, LiveKit's and Pipecat's own
code, each in a process of its own. They speak to servers with a certificate alone.

`make wires-test` installs them."""

import asyncio
import json
import os
import ssl
import subprocess
import wave
from pathlib import Path
from typing import Any

import grpc
import pytest

import sightline
from services.gateway.api.realtime.settings import PCM_RATE
from sightline.v1 import gateway_pb2 as pb
from tests import tools
from tests.certificates import Authority
from tests.eventually import wait_until
from tests.integration.test_talk_command import _question
from tests.processes import ServiceProcess
from tests.spoken import recorded
from tests.suite import Suite, passing_condition, write_clip
from tests.unit.fake_worker import ANSWER, FakeWorker
from tests.unit.realtime_parts import served_realtime
from tests.unit.test_realtime_voice import Ears
from tests.unit.voices import Hearsay, Loud
from tests.wires import program

pytestmark = pytest.mark.slow
PROGRAMS = Path(__file__).resolve().parents[1] / "wires"
QUESTION = "Is there a circle?"
ANSWERS = {"yes", "no"}


class Certificate:
    """One for localhost, and whom a client has to believe for it."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.ca = authority.ca
        self.environment = {**os.environ, "SSL_CERT_FILE": str(authority.ca)}
        self.chain, self.key = folder / "tls.crt", folder / "tls.key"
        authority.sign(self.chain, self.key)


def _command(python: str, name: str, *arguments: str) -> list[str]:
    return [python, str(PROGRAMS / f"{name}.py"), *arguments]


@pytest.fixture
def talk(tmp_path: Path) -> dict[str, Any]:
    """What a client's program says came of talking with a suite."""
    python = program("python")
    tools.require("redis")
    certificate = Certificate(tmp_path)
    question = recorded(QUESTION)
    environment = {
        "GATEWAY_TLS_CERT": str(certificate.chain),
        "GATEWAY_TLS_KEY": str(certificate.key),
    }
    asr = ServiceProcess("asr", {}, tmp_path) if question else None
    recording: list[str] = []
    if asr is not None and question is not None:
        asr.start(120)
        environment["GATEWAY_ASR"] = asr.address
        recording = [str(tmp_path / "question.wav")]
        with wave.open(recording[0], "wb") as file:
            file.setparams((1, 2, PCM_RATE, 0, "NONE", ""))
            file.writeframes(question)
    suite = Suite(tmp_path, environment={"gateway": environment})
    suite.gateway.credentials = grpc.ssl_channel_credentials(certificate.ca.read_bytes())
    try:
        suite.start()
        told = _talked(python, suite, certificate, recording)
    finally:
        complaints = suite.stop()
        if asr is not None:
            asr.stop()
    assert not complaints
    return told


def _talked(
    python: str, suite: Suite, certificate: Certificate, recording: list[str]
) -> dict[str, Any]:
    clip = write_clip(suite.media_root, seed=5, seconds=12)
    url = f"https://localhost:{suite.gateway.http_port}/"
    address = f"https://localhost:{suite.gateway.grpc_port}"
    with sightline.connect(address, ca=certificate.ca) as client:
        session = client.open(clip.path.name, on_server=True, loop=True, name="kitchen")
        wait_until(lambda: session.refresh().stats.frames_processed)
        arguments = [url, "kitchen", passing_condition(clip), *recording]
        command = _command(python, "gemini_google", *arguments)
        done = subprocess.run(
            command,
            env=certificate.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told | {"condition": passing_condition(clip), "spoke": bool(recording)}


def test_googles_own_client_talks_with_a_live_video(talk: dict[str, Any]) -> None:
    if talk["spoke"]:
        assert QUESTION in talk["heard"]
        assert talk["answer to it"] in ANSWERS
    assert talk["answer"] in ANSWERS
    assert talk["tokens"] > 0
    assert talk["kinds"] == ["generation_complete", "turn_complete"]
    assert talk["resumed"] in ANSWERS
    assert talk["spoken"]
    assert talk["audio"] > 10_000
    assert talk["interrupted"] == ["interrupted", "turn_complete"]
    assert talk["after it"] in ANSWERS
    assert talk["watch"].rstrip(".").lower() == talk["condition"].lower()
    assert talk["picture"] in ANSWERS
    assert talk["generated"] in ANSWERS
    assert talk["counted"] > 0
    assert talk["streamed"]
    assert talk["seen"] in ANSWERS
    assert "models/sightline://kitchen" in talk["models"]


class _Calling(FakeWorker):
    """A worker whose model calls the lamp, unless something has come of that or is not wanted."""

    @property
    def tool_calls(self) -> list[pb.ToolCall]:
        question = self.asked[-1].question
        wanted = "Light" in question.text and question.tools and not question.called
        return [pb.ToolCall(id="c1", name="lamp", arguments='{"on": true}')] if wanted else []

    @tool_calls.setter
    def tool_calls(self, calls: list[pb.ToolCall]) -> None:
        assert not calls


class _Ears(Ears):
    """Ears that take a tone for speech."""

    def activity(self) -> Any:
        return Loud()


async def _scripted(folder: Path, name: str, worker: FakeWorker, *words: str) -> dict[str, Any]:
    """What a program says came of talking with a worker that does as it was told to, and with ears
    that hear these words."""
    python = program("python")
    certificate = Certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.chain, certificate.key)
    ears = _Ears(Hearsay(*words))
    async with served_realtime(worker, speech=True, ears=ears, ssl=context) as (parts, http):
        await parts.push_session(seen=True, name="kitchen")
        recording = _question(folder / "said.wav")
        command = _command(python, name, str(http.make_url("/")), "kitchen", str(recording))
        running = await asyncio.create_subprocess_exec(
            *command, env=certificate.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        async with asyncio.timeout(120):
            said, complaints = await running.communicate()
    assert running.returncode == 0, complaints.decode()[-4000:]
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    return told


async def test_googles_own_client_calls_functions_and_is_interrupted(tmp_path: Path) -> None:
    worker = _Calling()
    worker.word_s = 0.6
    told = await _scripted(tmp_path, "tools_google", worker, "And now?")
    assert told["call"] == {"text": 2 * ANSWER, "call": ["lamp", {"on": True}], "cancelled": 1}
    interrupted = told["interrupt"]
    assert interrupted["kinds"][:2] == ["interrupted", "turn_complete"]
    assert interrupted["kinds"][-2:] == ["generation_complete", "turn_complete"]
    assert (interrupted["heard"], interrupted["spoken"]) == ("And now?", ANSWER)
    assert worker.asked[-1].question.text == "And now?"


async def test_pipecats_pipeline(tmp_path: Path) -> None:
    worker = FakeWorker()
    worker.word_s = 0.1
    told = await _scripted(tmp_path, "gemini_pipecat", worker, "And now?")
    assert told["answer"] == told["answer to it"] == ANSWER
    assert told["audio"] > 10_000
    assert "".join(told["heard"]) == "And now?"
    assert not told["errors"]
    assert [each.question.text for each in worker.asked] == ["What is there?", "And now?"]


async def test_livekits_agents(tmp_path: Path) -> None:
    worker = FakeWorker()
    told = await _scripted(tmp_path, "gemini_livekit", worker, "And now?")
    assert told == {"errors": [], "answer": ANSWER, "answer to it": ANSWER}
    assert [each.question.text for each in worker.asked] == ["What is there?", "And now?"]
    assert [each.name for each in worker.asked[0].question.tools] == ["lamp"]
