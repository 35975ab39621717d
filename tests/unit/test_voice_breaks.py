"""What is being said when the line breaks: heard once, and asked once, when the line is back."""

from typing import Any

import numpy as np
import pytest

from services.gateway.viewers import talk
from services.gateway.voice.activity import CHUNK_BYTES
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.test_gateway_voice import RATE, Speaker, talking
from tests.unit.voices import SILENCE, SPEECH

OPEN = pb.Listen(mode=pb.LISTEN_MODE_HANDS_FREE)
HOLD, OFF = pb.Listen(mode=pb.LISTEN_MODE_HOLD), pb.Listen(mode=pb.LISTEN_MODE_OFF)


class _Said:
    """What was said, in pieces that differ, as a microphone's do."""

    def __init__(self) -> None:
        self.pieces: list[pb.AudioChunk] = []

    async def say(self, speaker: Speaker, probability: float, count: int) -> None:
        for _ in range(count):
            samples = np.zeros(CHUNK_BYTES // 2, np.int16)
            samples[:2] = round(1000 * probability), len(self.pieces) + 1
            self.pieces.append(pb.AudioChunk(sample_rate=RATE, pcm=samples.tobytes()))
            await speaker.send(audio_chunk=self.pieces[-1])


async def _back(speaker: Speaker, **start: Any) -> tuple[Speaker, pb.Started]:
    """The line breaks and is there again."""
    started = next(each.started for each in speaker.events if each.HasField("started"))
    [inside] = speaker.parts.viewers.all()
    speaker.call.cancel()
    await eventually(lambda: inside.detached_s is not None)
    back = Speaker(
        speaker.parts,
        started.session.id,
        speech=True,
        resume_handle=started.resume_handle,
        last_sequence=max(event.sequence for event in speaker.events),
    )
    return back, await back.begin()


async def test_what_is_being_said_waits_for_its_rest() -> None:
    said = _Said()
    async with talking("what do you see?") as (speaker, worker, hearsay):
        await speaker.send(listen=OPEN)
        await said.say(speaker, SPEECH, 20)
        await eventually(lambda: hearsay.prompts)  # it has begun
        speaker, started = await _back(speaker)
        assert started.resumed == "line"
        await speaker.send(listen=OPEN)
        for piece in said.pieces:  # nobody knows how much of it arrived
            await speaker.send(audio_chunk=piece)
        await said.say(speaker, SPEECH, 10)
        await said.say(speaker, SILENCE, 30)
        assert (await speaker.until_final()).text == "what do you see?"
        await speaker.until("answer_done")
        [heard_s] = hearsay.heard_s
        assert heard_s == pytest.approx(30 * CHUNK_BYTES / 2 / RATE, abs=0.35)
        assert len(worker.asked) == 1


async def test_a_turn_that_was_over_is_not_asked_twice() -> None:
    said = _Said()
    async with talking("what do you see?") as (speaker, worker, hearsay):
        hearsay.hear.clear()  # its words come late
        await speaker.send(listen=HOLD)
        await said.say(speaker, SPEECH, 20)
        await speaker.send(listen=OFF)
        await eventually(lambda: hearsay.pauses or hearsay.prompts)
        speaker, _ = await _back(speaker)
        await speaker.send(listen=HOLD)
        for piece in said.pieces:
            await speaker.send(audio_chunk=piece)
        await speaker.send(listen=OFF)
        hearsay.hear.set()
        await speaker.until("answer_done")
        assert [each.question.text for each in worker.asked] == ["what do you see?"]


async def test_a_line_that_does_not_come_back_leaves_nothing_half_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(talk, "AWAY_S", 0.0)
    said = _Said()
    async with talking("what do|", "what do you see?") as (speaker, worker, _):
        await speaker.send(listen=OPEN)
        await said.say(speaker, SPEECH, 20)
        await said.say(speaker, SILENCE, 6)
        await speaker.until("transcript")
        [inside] = speaker.parts.viewers.all()
        turn = speaker.events[-1].transcript.turn
        speaker.call.cancel()
        await eventually(lambda: inside._talk._told is None)
        speaker, _ = await _back(speaker)
        gone = await speaker.until_final()
        assert (gone.turn, gone.text) == (turn, "")
        await speaker.send(listen=OPEN)
        for piece in said.pieces:  # it is all heard anew
            await speaker.send(audio_chunk=piece)
        await said.say(speaker, SILENCE, 30)
        assert (await speaker.until_final()).text == "what do you see?"
        await speaker.until("answer_done")
        assert worker.asked[-1].question.text == "what do you see?"
