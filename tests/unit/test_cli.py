"""The command line against a fake gateway: output, exit codes, what is left behind."""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import types
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import sightline
from sightline import aio, cli, commands
from sightline.mcp_server import Tools
from sightline.v1 import gateway_pb2 as pb
from sightline.v1.dialogue_pb2 import Round
from sightline.version import __version__
from tests.eventually import PATIENCE_S, eventually
from tests.processes import REPOSITORY
from tests.unit.fake_gateway import ANSWER, FakeGateway
from tests.unit.test_sdk_frames import write_video


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeGateway]:
    fake = FakeGateway()
    await fake.start()
    monkeypatch.setenv("SIGHTLINE_SERVER", fake.address)
    yield fake
    await fake.aclose()


@pytest.fixture
def live(gateway: FakeGateway) -> pb.Session:
    session = pb.Session(
        id="s-live", name="desk", state=pb.SESSION_STATE_LIVE, source_kind="rtmp", model="builtin"
    )
    gateway.sessions[session.id] = session
    gateway.keys[session.id] = "the-right-key"
    return session


async def test_a_live_session_is_asked_now(gateway, live, capsys) -> None:
    assert await cli.run(["ask", "desk", "What changed?"]) == 0
    assert capsys.readouterr() == (ANSWER + "\n", "")
    assert gateway.asked[0].text == "What changed?"
    assert list(gateway.sessions) == ["s-live"]


async def test_json_is_one_object(gateway, live, capsys) -> None:
    assert await cli.run(["ask", "s-live", "q", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["answer"] == ANSWER
    assert report["session"] == "s-live"
    assert report["frames_seen"] == 30
    assert report["newest_frame_age_ms"] == 120.0
    assert report["finish_reason"] == "stop"


async def test_a_terminal_is_told_what_was_seen(gateway, live, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert await cli.run(["ask", "desk", "q"]) == 0
    assert "(saw 30 frames, newest 0.1 s old; first token " in capsys.readouterr().err


async def test_who_asks_is_told_the_moments_that_an_answer_is_made_of(
    gateway, live, capsys, monkeypatch
) -> None:
    moment = {"moment": "12-0", "start_ns": 1_700_000_000_000_000_000, "line": "a red cap"}
    gateway.memory = [pb.Recollection(picture=True, **moment)]
    assert await cli.run(["ask", "desk", "q", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"][0]["moment"] == "12-0"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert await cli.run(["ask", "desk", "q"]) == 0
    told = capsys.readouterr().err
    assert ": a red cap  (sightline memory desk --moment 12-0 --pictures FOLDER)" in told


async def test_a_file_is_pushed_without_loss_asked_and_forgotten(gateway, tmp_path, capsys) -> None:
    write_video(tmp_path / "clip.mp4", b_frames=0)
    assert await cli.run(["ask", str(tmp_path / "clip.mp4"), "q"]) == 0
    assert capsys.readouterr().out == ANSWER + "\n"
    assert len([message for message in gateway.pushed if message.HasField("packet")]) == 40
    assert gateway.pushed[0].open.codec == "h264"
    assert not gateway.sessions


async def test_at_asks_at_that_moment(gateway, tmp_path, capsys) -> None:
    write_video(tmp_path / "clip.mp4", b_frames=2)
    assert await cli.run(["ask", str(tmp_path / "clip.mp4"), "q", "--at", "1.5", "--json"]) == 0
    times = [message.frame.capture_ns for message in gateway.pushed[1:]]
    assert len(times) == 16
    assert (times[-1] - times[0]) / 1e9 == pytest.approx(1.5)
    assert capsys.readouterr().err == ""
    assert await cli.run(["ask", str(tmp_path / "clip.mp4"), "q", "--at", "90"]) == 0
    told = "sightline: clip.mp4 ends after 4.0 s, and is asked about there\n"
    assert capsys.readouterr() == (ANSWER + "\n", told)


async def test_a_url_is_watched_by_the_server_for_a_while(gateway, monkeypatch, capsys) -> None:
    async def ended(request, context) -> pb.Session:
        session = gateway.sessions[request.session]
        session.state = pb.SESSION_STATE_ENDED
        return session

    monkeypatch.setattr(gateway, "GetSession", ended)
    await gateway.stop()
    await gateway.start()
    assert await cli.run(["ask", "http://camera/x.mp4", "q"]) == 0
    assert capsys.readouterr().out == ANSWER + "\n"
    assert not gateway.sessions


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ask", "nobody", "q"], 4, "'nobody' is no file here, and no session called"),
        (["ask", "desk", "q", "--at", "3"], 2, "--at is for files"),
        (["ask", "desk", "fail"], 6, "no room"),
        (["watch", "nobody", "c"], 4, "no session called 'nobody'"),
        (["push", "missing.mp4", "--session", "x"], 2, "missing.mp4: no such file"),
        (["delete", "nobody"], 4, "no session called 'nobody'"),
    ],
)
async def test_errors_are_one_line_and_a_code(gateway, live, capsys, arguments, code, message):
    assert await cli.run(arguments) == code
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("sightline: ")
    assert message in errors
    assert errors.count("\n") == 1


async def test_a_delegate_is_asked_for_and_named(gateway, tmp_path, capsys, monkeypatch) -> None:
    write_video(tmp_path / "clip.mp4", b_frames=0)
    gateway.answered_by = "qwen3-vl:4b"
    asked = ["ask", str(tmp_path / "clip.mp4"), "q", "--delegate", "unsure"]
    assert await cli.run([*asked, "--delegate-to", "hard", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answered_by"] == "qwen3-vl:4b"
    [options] = gateway.options
    assert (options.delegate, options.delegate_to) == (pb.DELEGATE_MODE_UNSURE, "hard")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert await cli.run(asked) == 0
    assert "; answered by qwen3-vl:4b)" in capsys.readouterr().err


async def test_a_server_away_is_its_own_code(tmp_path, capsys) -> None:
    arguments = ["--server", f"unix:{tmp_path}/none", "--timeout", "0.1", "sessions"]
    assert await cli.run(arguments) == 3
    assert "cannot reach" in capsys.readouterr().err


def test_what_every_command_takes_is_taken_behind_every_command() -> None:
    def leaves(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, str]]:
        below = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
        for each in below:
            for word, child in each.choices.items():
                yield from leaves(child, f"{name} {word}")
        if not below:
            yield name, parser.format_help()

    told = dict(leaves(cli._parser(), "sightline"))
    assert "sightline rules pause" in told
    for option in ("--server", "--token", "--insecure-token", "--ca", "--timeout"):
        assert [name for name, text in told.items() if option not in text] == []


def test_a_terminal_of_few_letters_is_told_the_rest() -> None:
    """As Windows' are, where another program reads."""
    told = subprocess.run(
        [sys.executable, "-m", "sightline.cli", "--help"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        cwd=REPOSITORY,
    )
    assert (told.returncode, told.stderr) == (0, b"")
    assert b"`make run MODEL=?`" in told.stdout


async def test_bytes_that_are_no_text_are_refused(gateway, live, capsys) -> None:
    for command in (["ask", "desk", "what\udcff"], ["ask", "desk\udcff", "q"]):
        assert await cli.run(command) == 2
        assert "no text in UTF-8" in capsys.readouterr().err
    assert not gateway.asked


async def test_a_draining_server_is_the_same_code(gateway, live, capsys) -> None:
    gateway.failures["DeleteSession"] = [grpc.StatusCode.UNAVAILABLE] * 9
    assert await cli.run(["delete", "desk"]) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["ask", "x"],
        ["ask", "x", "q", "--at", "soon"],
        ["ask", "x", "q", "--at", "-1"],
        ["ask", "x", "q", "--conversation", "-x"],
        ["watch", "x", "y", "--count", "-3"],
        ["nap"],
    ],
)
async def test_wrong_usage_is_2_and_one_line(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        await cli.run(arguments)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("sightline")
    assert told.count("\n") == 1
    assert "--help" in told
    assert ("--option=-x" in told) == ("-x" in arguments)


async def test_an_answer_that_began_anew_and_a_session_that_moves_are_told(
    gateway, live, capsys, monkeypatch
) -> None:
    gateway.answers = ["a red circle moved", "a blue square", ANSWER]
    gateway.restart_at, gateway.kept = 2, False
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert await cli.run(["ask", "desk", "q"]) == 0
    told = capsys.readouterr()
    assert told.out == "a red\na blue square\n"
    assert "its text began anew" in told.err
    assert "not stored yet" in told.err
    gateway.sessions["s-live"].moving = True
    assert await cli.run(["sessions"]) == 0
    assert " moving " in capsys.readouterr().out


async def test_sessions_table(gateway, live, capsys) -> None:
    assert await cli.run(["sessions"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["ID", "NAME", "STATE"]
    assert row.split()[:4] == ["s-live", "desk", "live", "rtmp"]
    gateway.sessions.clear()
    assert await cli.run(["sessions"]) == 0
    assert capsys.readouterr().out == "no sessions\n"
    assert await cli.run(["sessions", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"sessions": []}


async def test_push_makes_the_session_and_says_how_to_ask(gateway, tmp_path, capsys) -> None:
    write_video(tmp_path / "clip.mp4", b_frames=0)
    assert await cli.run(["push", str(tmp_path / "clip.mp4"), "--session", "porch"]) == 0
    output = capsys.readouterr().out
    assert "key generated" in output
    assert f"sightline --server {gateway.address} ask porch" in output
    assert output.endswith("40 frames pushed, 40 understood\n")
    assert [session.name for session in gateway.sessions.values()] == ["porch"]


async def test_push_into_an_existing_session_needs_its_key(gateway, live, tmp_path, capsys) -> None:
    write_video(tmp_path / "clip.mp4", b_frames=0)
    push = ["push", str(tmp_path / "clip.mp4"), "--session", "desk"]
    assert await cli.run(push) == 5
    assert "needs its --key" in capsys.readouterr().err
    assert await cli.run([*push, "--key", "wrong-key"]) == 5
    assert await cli.run([*push, "--key", "the-right-key", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["understood"] == 40


async def test_push_does_not_guess_between_sessions_of_one_name(
    gateway, live, tmp_path, capsys
) -> None:
    gateway.sessions["s2"] = pb.Session(id="s2", name="desk")
    write_video(tmp_path / "clip.mp4", b_frames=0)
    assert await cli.run(["push", str(tmp_path / "clip.mp4"), "--session", "desk"]) == 2
    assert "several sessions" in capsys.readouterr().err


async def test_watch_prints_events_and_ends_after_count(gateway, live, capsys) -> None:
    command = asyncio.create_task(cli.run(["watch", "desk", "motion", "--count", "2"]))
    await eventually(lambda: gateway.watched)
    line = next(iter(gateway.lines.values()))
    watch = gateway.watched[0].watch
    for active, score in ((True, 0.9), (False, 0.2)):
        line.add(
            watch_event=pb.WatchEvent(
                watch=watch, condition="motion", active=active, score=score, capture_ns=1
            )
        )
    assert await command == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[1:] == ["yes", "motion", "(0.90)"]
    assert second.split()[1:] == ["no", "motion", "(0.20)"]


async def test_an_interrupt_deletes_the_temporary_session(gateway, tmp_path, capsys) -> None:
    write_video(tmp_path / "clip.mp4", b_frames=0)
    gateway.pause_after = 2
    command = asyncio.create_task(cli.run(["ask", str(tmp_path / "clip.mp4"), "q"]))
    await gateway.paused.wait()
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
    assert not gateway.sessions


async def test_speech_is_written_as_wav(gateway, tmp_path: Path, capsys) -> None:
    target = tmp_path / "out.wav"
    assert await cli.run(["speak", "hello there", "-o", str(target)]) == 0
    with wave.open(str(target)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (22050, 1, 2)
        assert sound.readframes(99) == b"hellothere"
    assert str(target) in capsys.readouterr().out


async def test_speech_into_a_folder_that_is_not_there_is_one_line(
    gateway, tmp_path, capsys
) -> None:
    output = str(tmp_path / "no" / "a.wav")
    assert await cli.run(["speak", "hello there", "-o", output]) == 2
    assert capsys.readouterr().err == f"sightline: {tmp_path / 'no'}: no such folder\n"
    assert not gateway.calls.get("Speak"), "nothing was spoken for nobody"


async def test_voices_come_with_the_default_first(gateway, capsys) -> None:
    assert await cli.run(["voices"]) == 0
    assert capsys.readouterr().out.split("\n")[1].split() == ["en-us", "en-US", "espeak-ng"]


async def test_models_and_version_need_no_server(tmp_path, capsys) -> None:
    assert await cli.run(["--server", "localhost:1", "models"]) == 0
    out = capsys.readouterr().out
    assert "small" in out
    assert "2.0 GB" in out, "what SmolVLM2-500M-Video's one file holds, in float32"
    assert "16.6 GB" in out, "Qwen2.5-VL-7B in bfloat16"
    with pytest.raises(SystemExit) as end:
        await cli.run(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"sightline {__version__}\n"


async def test_a_watch_ends_after_its_time(gateway, live, capsys) -> None:
    assert await cli.run(["watch", "desk", "a red circle is there", "--for", "0.5"]) == 0
    assert capsys.readouterr().out == ""
    assert gateway.watched


async def test_a_watch_says_when_the_model_cannot_tell(gateway, live, capsys, monkeypatch) -> None:
    monkeypatch.setattr(commands, "DOUBT_S", 0.01)
    (session,) = gateway.sessions.values()
    session.stats.degraded.append("unfamiliar_picture")
    assert await cli.run(["watch", "desk", "a red circle is there", "--for", "0.5"]) == 0
    assert capsys.readouterr() == ("", f"{commands.UNSURE}\n")


async def test_pushing_what_is_no_video_makes_no_session(gateway, tmp_path, capsys) -> None:
    (tmp_path / "notes.txt").write_text("not a video")
    assert await cli.run(["push", str(tmp_path / "notes.txt"), "--session", "porch"]) == 2
    assert not gateway.sessions
    assert capsys.readouterr().err.count("\n") == 1


async def test_info_tells_what_a_model_can_be_asked(gateway, capsys) -> None:
    assert await cli.run(["info"]) == 0
    out = capsys.readouterr().out
    assert "builtin: 3 of 4 sessions free" in out
    assert "it sees circles" in out
    assert "- red circles" in out
    assert "Licence: Apache-2.0" in out
    assert "big: Loading big: 41 %" in out
    assert await cli.run(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["card"]["can"] == ["red circles"]


async def test_a_session_is_updated(gateway, live, capsys) -> None:
    arguments = ["--window", "12", "--fps", "0", "--label", "room=hall", "--label", "floor=2"]
    assert await cli.run(["update", "desk", *arguments]) == 0
    [request] = gateway.updates
    assert (request.window, request.fps) == (12, 0)
    assert request.HasField("fps")
    assert not request.HasField("name")
    assert not request.HasField("listen")
    assert dict(request.labels.labels) == {"room": "hall", "floor": "2"}
    assert "window of 12" in capsys.readouterr().out
    assert await cli.run(["update", "desk", "--delegate", "unsure", "--delegate-to", "big"]) == 0
    assert gateway.updates[-1].delegate == pb.DELEGATE_MODE_UNSURE
    assert gateway.updates[-1].delegate_to == "big"
    assert not gateway.updates[-1].HasField("window")
    capsys.readouterr()
    for flag, listens in (("--listen", True), ("--no-listen", False)):
        assert await cli.run(["update", "desk", flag, "--json"]) == 0
        assert gateway.updates[-1].listen is listens
        assert json.loads(capsys.readouterr().out)["listens"] is listens
    with pytest.raises(SystemExit) as end:
        await cli.run(["update", "desk", "--label", "hall"])
    assert end.value.code == 2


async def test_a_session_is_opened_to_stay(gateway, capsys) -> None:
    arguments = ["--name", "door", "--label", "room=hall", "--memory", "lines", "--no-listen"]
    assert await cli.run(["open", "rtsp://camera/1", *arguments]) == 0
    assert "door (s1) is" in capsys.readouterr().out
    assert gateway.sessions["s1"].source == "rtsp://camera/1"
    assert dict(gateway.options[0].labels) == {"room": "hall"}
    assert (gateway.options[0].memory, gateway.options[0].listen) == (pb.MEMORY_KIND_LINES, False)
    assert await cli.run(["open", "clips/one.mp4"]) == 0
    assert gateway.sessions["s2"].source == "clips/one.mp4", "the server's file, not one of here"
    capsys.readouterr()
    assert await cli.run(["open", "--name", "desk"]) == 0
    out = capsys.readouterr().out
    assert "publish with the key generated" in out
    assert "rtmp://here/live/generated" in out
    assert await cli.run(["open", "--json", "--key", "a-key-of-mine"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["id"], told["key"]) == ("s4", "a-key-of-mine")
    assert set(gateway.sessions) == {"s1", "s2", "s3", "s4"}


async def test_statements_are_decided_about(gateway, live, capsys) -> None:
    assert await cli.run(["decide", "desk", "a phone is there", "it is dark"]) == 0
    heading, first, _ = capsys.readouterr().out.splitlines()
    assert heading.split() == ["STATEMENT", "ANSWER", "PROBABILITY"]
    assert first == "a phone is there  no      25%"
    levels = ["--level", "empty", "--level", "full"]
    assert await cli.run(["decide", "desk", "the cup is {}", *levels, "--json"]) == 0
    [decision] = json.loads(capsys.readouterr().out)["decisions"]
    assert (decision["value"], set(decision["probabilities"])) == ("empty", {"empty", "full"})
    with pytest.raises(SystemExit):
        await cli.run(["decide", "desk", "it is {}", "--choice", "a", "--level", "b"])


async def test_the_newest_picture_is_written(gateway, live, tmp_path, capsysbinary) -> None:
    assert await cli.run(["picture", "desk", "-o", str(tmp_path / "now.jpg")]) == 0
    assert (tmp_path / "now.jpg").read_bytes() == b"\xff\xd80"
    assert await cli.run(["picture", "desk", "-o", "-", "--width", "320"]) == 0
    assert capsysbinary.readouterr().out == b"\xff\xd8320"
    assert await cli.run(["picture", "desk", "-o", str(tmp_path / "no" / "now.jpg")]) == 2


async def test_sessions_are_found_by_label(gateway, live, capsys) -> None:
    live.labels["room"] = "hall"
    assert await cli.run(["sessions", "--label", "room=hall"]) == 0
    assert "desk" in capsys.readouterr().out
    assert await cli.run(["sessions", "--label", "room=loft"]) == 0
    assert capsys.readouterr().out == "no sessions\n"


async def test_a_conversation_is_read_and_forgotten(gateway, capsys) -> None:
    gateway.rounds["c-1"] = [Round(question="and now?", answer="a cat", interrupted=True)]
    assert await cli.run(["history", "c-1"]) == 0
    out = capsys.readouterr().out
    assert "> and now?" in out
    assert "a cat …" in out
    assert await cli.run(["forget", "c-1"]) == 0
    assert await cli.run(["history", "c-1"]) == 4


async def test_what_people_think_of_answers_is_exported(gateway, capsys) -> None:
    said = Round(turn="t", question="and now?", answer="a cat", capture_ns=1_010 * 10**9)
    gateway.rounds["c-1"] = [Round(turn="u", question="then?", answer="none")]
    gateway.rounds["c-2"] = [said]
    async with aio.connect(gateway.address) as client:
        await client.rate("c-2", "t", up=False, better="a dog")
    assert await cli.run(["feedback", "export"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["conversation"], told["rating"], told["better"]) == ("c-2", "down", "a dog")

    pairs = ["feedback", "export", "--session", "s-1", "--video", "shop.mp4"]
    assert await cli.run([*pairs, "--began", "1000"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "video": "shop.mp4",
        "at": 10.0,
        "question": "and now?",
        "chosen": "a dog",
        "rejected": "a cat",
    }
    assert await cli.run(pairs) == 2
    assert await cli.run(["feedback", "export", "--session", "s-2"]) == 0
    assert "cat" not in capsys.readouterr().out


async def test_mcp_is_served_before_there_is_a_server(monkeypatch) -> None:
    """Assistants begin what serves them once, when they begin themselves."""
    served: dict[str, Any] = {}
    later = FakeGateway()

    class MCPServer:
        def __init__(self, *_: object, **__: object) -> None:
            self.settings = types.SimpleNamespace()

        def add_tool(self, tool: Any) -> None:
            served[tool.__name__] = tool

        async def run_stdio_async(self) -> None:
            with pytest.raises(RuntimeError, match="cannot reach unix:"):
                await served["list_sessions"]()
            await later.start()
            async with asyncio.timeout(PATIENCE_S):  # a try of 0.1 s may be too short
                while True:
                    with contextlib.suppress(RuntimeError):
                        assert await served["list_sessions"]() == []
                        return

    server, exceptions = types.ModuleType("mcp.server"), types.ModuleType("exceptions")
    server.MCPServer = MCPServer  # type: ignore[attr-defined]
    exceptions.ToolError = RuntimeError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mcp", types.ModuleType("mcp"))
    monkeypatch.setitem(sys.modules, "mcp.server", server)
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", types.ModuleType("mcpserver"))
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver.exceptions", exceptions)
    try:
        assert await cli.run(["--server", later.address, "--timeout", "0.1", "mcp"]) == 0
    finally:
        await later.aclose()
    assert "list_sessions" in served


async def test_mcp_says_what_it_needs(gateway, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    assert await cli.run(["mcp"]) == 2
    assert 'pip install "sightline-live[mcp]"' in capsys.readouterr().err


async def test_what_assistants_may_do_leaves_sessions_as_they_are(gateway, live) -> None:
    live.stats.last_capture_ns = 5
    async with aio.connect(gateway.address) as client:
        tools = Tools(client)
        assert all(tool.__doc__ for tool in tools.all())
        [listed] = await tools.list_sessions()
        assert (listed["name"], listed["state"], listed["last_capture_ns"]) == ("desk", "live", 5)
        answered = await tools.ask("desk", "What changed?")
        assert answered["answer"] == ANSWER
        [decided] = await tools.decide("desk", ["the cup is {}"], ["full", "empty"])
        assert decided["value"] == "full"
        [said] = await tools.transcript("desk")
        assert said["text"] == "A red circle."
        gateway.rounds["c-1"] = [Round(question="and now?", answer="a cat")]
        [told] = await tools.conversation("c-1")
        assert (told["question"], told["answer"]) == ("and now?", "a cat")
        with pytest.raises(sightline.InvalidArgumentError, match="for_s"):
            await tools.watch("desk", "a cup", for_s=1e9)
        assert client._sessions == set()
    assert list(gateway.sessions) == ["s-live"]
