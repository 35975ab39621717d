"""The relay before model servers of other making: Sightline itself, and `transformers serve` with
a tiny random model (`make relay-test` installs what that needs)."""

import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import grpc
import pytest

from services.local.clip import Clip
from sightline.v1 import gateway_pb2, inference_pb2
from sightline.v1.inference_pb2_grpc import InferenceServiceStub
from tests.eventually import wait_until
from tests.integration.test_worker import Feeder
from tests.llava import write_llava
from tests.processes import REPOSITORY, ServiceProcess, free_port
from tests.suite import Suite, write_clip

SERVING = Path(os.environ.get("SERVING_VENV", REPOSITORY / ".cache" / "serving-venv"))
SIDE = 224
S = 10**9


def _feed(stub: InferenceServiceStub, clip: Path, at_s: float) -> Feeder:
    """A session that has seen a second of a clip, ending there."""
    feeder = Feeder(stub, "relayed", grace_s=0)
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            if at_s - 1 <= frame.time <= at_s and round(frame.time * 24) % 8 == 0:
                picture = frame.reformat(SIDE, SIDE, "rgb24").to_ndarray()
                feeder.push(picture.tobytes(), int(frame.time * S))
    return feeder


def _ask(stub: InferenceServiceStub, text: str, **options: object) -> gateway_pb2.AnswerDone:
    question = gateway_pb2.Question(turn="t", text=text, **options)
    request = inference_pb2.AnswerRequest(session_id="relayed", question=question)
    events = list(stub.Answer(request, timeout=120))
    done = events[-1].done
    assert done.text == "".join(event.text_delta.text for event in events)
    return done


def _score(stub: InferenceServiceStub, *statements: str) -> list[float]:
    request = inference_pb2.ScoreStatementsRequest(session_id="relayed", statements=statements)
    return list(stub.ScoreStatements(request, timeout=120).probabilities)


@pytest.mark.needs("redis")
def test_sightline_relays_to_sightline(
    suite: Suite, clip: Clip, service_process: Callable[..., ServiceProcess]
) -> None:
    relay = service_process(
        "inference_worker",
        WORKER_MODEL=f"openai:{suite.url}v1#shapes",
        WORKER_FRAME_PIXELS=SIDE * SIDE,
    )
    fact = next(each for each in clip.facts if each.kind == "presence")
    with grpc.insecure_channel(relay.address) as channel:
        stub = InferenceServiceStub(channel)
        feeder = _feed(stub, clip.path, (fact.time_s + fact.until_s) / 2)
        done = _ask(stub, fact.question, temperature=0)
        scores = _score(stub, fact.question, "a purple elephant is there")
        feeder.close()
    assert done.text
    assert done.prompt_tokens > 0
    assert all(0 <= score <= 1 for score in scores)
    # Its pictures were shown to sessions of the requests' own, which are gone.
    assert suite.api("GET", "api/sessions").get("sessions", []) == []


@pytest.fixture
def transformers_serve(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of `transformers serve`, and the folder of the model that it is pinned to."""
    if not (SERVING / "bin" / "python").exists():
        pytest.skip("`make relay-test` installs transformers' server")
    folder = write_llava(tmp_path / "model")
    (tmp_path / "hub").mkdir()
    port = free_port()
    start = "from transformers.cli.transformers import main; main()"
    command = [SERVING / "bin" / "python", "-c", start, "serve", str(folder)]
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            env=environment,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        answers = lambda: _answers(server, f"{url}/health", tmp_path / "serve.log")  # noqa: E731
        wait_until(answers, timeout_s=240)  # torch and its libraries are imported first
        yield f"{url}/v1", folder
    finally:
        server.terminate()
        server.wait(30)


def _answers(server: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert server.poll() is None, log.read_text()[-3000:]
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_a_model_that_transformers_serves(
    transformers_serve: tuple[str, Path],
    tmp_path: Path,
    service_process: Callable[..., ServiceProcess],
) -> None:
    url, folder = transformers_serve
    clip = write_clip(tmp_path, seed=3, seconds=8)
    relay = service_process(
        "inference_worker", WORKER_MODEL=f"openai:{url}#{folder}", WORKER_FRAME_PIXELS=SIDE * SIDE
    )
    with grpc.insecure_channel(relay.address) as channel:
        stub = InferenceServiceStub(channel)
        feeder = _feed(stub, clip.path, 2.0)
        done = _ask(stub, "What is there?", max_tokens=8, temperature=0)
        scores = _score(stub, "a red circle is there", "a person is there")
        feeder.close()
    assert done.text
    assert done.frames_seen == 4
    assert done.finish_reason == gateway_pb2.FINISH_REASON_LENGTH
    assert all(0 <= score <= 1 for score in scores)
