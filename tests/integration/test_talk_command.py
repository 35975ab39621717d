"""`sightline talk` with files in the place of a microphone and a loudspeaker."""

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline import cli, talk_command
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import running
from tests.unit.test_gateway_voice import EarsOf
from tests.unit.voices import Hearsay, Loud

RATE = 24_000


class _Ears(EarsOf):
    def activity(self) -> Any:
        return Loud()


def _question(path: Path) -> Path:
    """A tone that is taken for speech."""
    samples = (12_000 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE)).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return path


async def test_a_question_of_a_file_is_answered_into_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(talk_command, "QUIET_S", 1.2)
    worker = FakeWorker()
    worker.answer, worker.word_s = "a red circle", 0.2
    said, answered = _question(tmp_path / "said.wav"), tmp_path / "answer.wav"
    async with running(worker) as parts:
        monkeypatch.setenv("SIGHTLINE_SERVER", parts.address)
        parts.viewers.ears = _Ears(Hearsay("What is there?", "And now?"))
        await parts.push_session(seen=True, name="kitchen")
        command = ["talk", "kitchen", "--microphone", str(said), "--speaker", str(answered)]
        assert await cli.run([*command, "--json"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["text"] for line in lines if line.get("final")] == ["What is there?"]
        assert lines[-1] == {"kind": "done", "turn": lines[-1]["turn"], "text": "a red circle"}
        with wave.open(str(answered)) as file:
            assert file.getnframes() / file.getframerate() == pytest.approx(0.6, abs=0.1)
        assert await cli.run([*command[:4], "--speaker", "none"]) == 0
        assert capsys.readouterr().out == "> And now?\na red circle\n"
        assert not worker.asked[1].speech
