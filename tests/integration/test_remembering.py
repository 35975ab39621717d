"""Memory beyond the window, through real processes: written, read, asked about, and erased."""

import asyncio
import json
import shutil
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

import sightline
from services.inference_worker.serving.doubt import says_doubt
from sightline.cli import main
from sightline.mcp_server import Tools
from tests.eventually import PATIENCE_S, wait_until
from tests.suite import Suite

pytestmark = pytest.mark.option

NS = 1_000_000_000
FPS = 4
BEGAN_NS = 1_700_000_000 * NS
COLOURS = {"red": (215, 35, 40), "blue": (45, 85, 230), "green": (40, 175, 65)}
SCENES = (("red", "circle"), ("blue", "square"), ("green", "circle"), ("blue", "circle"))
SCENE_S = 12


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    made = Suite(
        tmp_path_factory.mktemp("remembering"),
        speech=False,
        environment={
            "inference_worker": {
                "WORKER_THREADS": "1",
                "WORKER_MAX_SESSIONS": "4",
                "WORKER_NOTE_WAIT_S": "0",  # each scene is described before the next is shown
            }
        },
    )
    made.start()
    yield made
    assert not made.stop()


def shown(colour: str, shape: str) -> NDArray[np.uint8]:
    pixels = np.full((128, 128, 3), 60, np.uint8)
    y, x = np.mgrid[:128, :128]
    inside = (x - 64) ** 2 + (y - 60) ** 2 < 20**2
    if shape == "square":
        inside = (abs(x - 64) < 18) & (abs(y - 60) < 18)
    pixels[inside] = COLOURS[colour]
    return pixels


def notes(suite: Suite) -> float:
    """Lines that the gateway has asked for and got, or not."""
    address = f"http://127.0.0.1:{suite.gateway.metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=PATIENCE_S) as reply:
        lines = reply.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("sightline_memory_notes_total{")
    )


def noted(suite: Suite, count: float) -> bool:
    return notes(suite) >= count


def tell(suite: Suite, session: sightline.Session) -> int:
    """Show the scenes one after the other, faster than life; the capture time after them. A line is
    about what the model sees when it is written, so that each is waited for."""
    capture_ns = BEGAN_NS
    with session.pusher() as pusher:
        for scene in (*SCENES, None):  # the last goes on, so that its first moment ends
            colour, shape = scene or SCENES[-1]
            wanted = notes(suite) + 1
            for number in range(SCENE_S * FPS):
                pusher.send((shown(colour, shape), capture_ns))
                capture_ns += NS // FPS
                if scene is not None and number == 3 * FPS:
                    wait_until(partial(noted, suite, wanted))
        pusher.end()
    return capture_ns


def kept(suite: Suite, word: str) -> list[str]:
    """Keys of Redis that have it, in their names or in what they hold."""
    found = []
    with redis.Redis.from_url(suite.redis.url) as client:
        for key in client.scan_iter("*"):
            kind = client.type(key)
            value: object = client.get(key) if kind == b"string" else None
            if kind == b"stream":
                value = client.xrange(key)
            elif kind == b"hash":
                value = client.hgetall(key)
            elif kind == b"set":
                value = client.smembers(key)
            if word in key.decode() or word in repr(value):
                found.append(key.decode())
    return found


async def by_tools(address: str) -> dict[str, Any]:
    """What an assistant is told."""
    async with sightline.aio.connect(address) as client:
        tools = Tools(client)
        found = await tools.ask("room", "When did the green circle show?")
        listed = await tools.memory("room", "green", limit=5)
        assert {each["id"] for each in listed} >= {each["moment"] for each in found["memory"]}
        return found


def test_moments_are_written_read_asked_about_and_erased(
    suite: Suite, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with sightline.connect(suite.address) as client:
        session = client.open(push=True, name="room", fps=FPS, lossless=True, memory="pictures")
        assert session.info.memory == "pictures"
        now_ns = tell(suite, session)
        wait_until(lambda: len(session.memory()) >= len(SCENES))

        # Read: by the SDK, by pages and words, by HTTP, on the command line
        moments = session.memory(pictures=True)
        lines = [moment.line for moment in reversed(moments)]
        for (colour, shape), line in zip(SCENES, lines, strict=False):
            assert f"{colour} {shape}" in line, lines
        assert all(moment.pictures[0].startswith(b"\xff\xd8") for moment in moments)
        assert all(len(picture) < 49152 for moment in moments for picture in moment.pictures)
        assert [moment.start_ns for moment in moments] == sorted(
            (moment.start_ns for moment in moments), reverse=True
        )
        assert {moment.id for moment in session.memory("blue")} == {
            moment.id for moment in moments if "blue" in moment.line
        }
        first = suite.api("GET", "api/sessions/room/memory?page_size=1")
        second = suite.api(
            "GET", f"api/sessions/room/memory?page_size=1&page_token={first['next_page_token']}"
        )
        assert [first["moments"][0]["id"], second["moments"][0]["id"]] == [
            moment.id for moment in moments[:2]
        ]
        address = f"{suite.url}api/sessions/room/memory/{moments[0].id}.jpg"
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as reply:
            assert reply.read() == moments[0].pictures[0]
        options = ["--server", suite.address, "memory", "room", "blue", "--json"]
        assert main([*options, "--pictures", str(tmp_path)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert {each["id"] for each in told["moments"]} == {
            moment.id for moment in moments if "blue" in moment.line
        }
        assert len(list(tmp_path.iterdir())) >= len(told["moments"])

        # Asked about
        age_s = round((now_ns - BEGAN_NS) / NS) - SCENE_S // 2
        answer = session.ask(f"What was in the scene {age_s} seconds ago?").result()
        assert "red circle" in answer.text
        assert answer.text.startswith("From memory, ")
        assert answer.memory[0].moment == moments[-1].id
        assert answer.memory[0].picture
        answer = session.ask("When did the green circle show?").result()
        assert "green circle" in answer.text
        assert abs(answer.memory[0].start_ns - (BEGAN_NS + 2 * SCENE_S * NS)) <= 4 * NS
        present = session.ask("What is in the scene?").result()
        assert "blue circle" in present.text
        assert not present.memory

        # Asked about now, of what is not there any more: its own words first, then what is known
        away = session.ask("What color is the square?").result()
        own, _, remembered = away.text.partition(". From memory, ")
        assert says_doubt(own), away.text
        assert "blue" in remembered, away.text
        assert away.unsure
        assert "blue square" in away.memory[0].line
        moment = session.moment(away.memory[0].moment)
        assert moment.pictures[0].startswith(b"\xff\xd8")

        # By other doors
        body = {"text": "When did the green circle show?"}
        told = suite.api("POST", "api/sessions/room/ask", {"question": body})["answer"]
        assert told["memory"][0]["moment"] == answer.memory[0].moment
        message = {"role": "user", "content": body["text"]}
        chat = suite.api(
            "POST", "v1/chat/completions", {"model": "sightline://room", "messages": [message]}
        )
        assert chat["sightline"]["memory"][0]["moment"] == answer.memory[0].moment
        found = asyncio.run(by_tools(suite.address))
        assert found["memory"][0]["moment"] == answer.memory[0].moment
        shutil.rmtree(tmp_path)
        options = ["--server", suite.address, "memory", "room", "--moment", moment.id]
        assert main([*options, "--pictures", str(tmp_path)]) == 0
        assert "blue square" in capsys.readouterr().out
        assert [each.read_bytes() for each in tmp_path.iterdir()] == [moment.pictures[0]]
        for text in (
            "Was ist vor einer Woche passiert?",
            "what happened 40 days ago??",
            "wann war das Zebra zu sehen?",
            "vor zehn minuten zebra wann when",
        ):
            answer = session.ask(text).result()
            assert "ago" not in answer.text, "no time is made up"

        # Erased with its session
        other = client.open(push=True, name="other", memory="off")
        assert kept(suite, session.id)
        session.delete(conversations=True)
        assert kept(suite, session.id) == []
        assert kept(suite, "green circle") == []
        other.delete()


def test_a_session_without_memory_keeps_nothing_and_answers_as_one_with_it(suite: Suite) -> None:
    said = []
    with sightline.connect(suite.address) as client:
        for memory in ("off", "pictures"):
            with client.open(push=True, fps=FPS, lossless=True, memory=memory) as session:
                if memory == "off":
                    frames = [
                        (shown(*scene), BEGAN_NS + (n * SCENE_S * FPS + k) * NS // FPS)
                        for n, scene in enumerate((*SCENES, SCENES[-1]))
                        for k in range(SCENE_S * FPS)
                    ]
                    session.push(frames)
                    assert session.memory() == []
                    assert kept(suite, session.id) == []
                else:
                    tell(suite, session)
                away = session.ask("What color is the square?").result().text
                own, _, remembered = away.partition(". From memory, ")
                assert own == "there is no square"
                assert ("blue" in remembered) == (memory != "off")
                said.append(
                    [
                        (answer.text, answer.prompt_tokens, answer.frames_seen)
                        for text in ("What is in the scene?", "What changed?", "Is it red?")
                        if (answer := session.ask(text).result())
                    ]
                )
    assert said[0] == said[1]
