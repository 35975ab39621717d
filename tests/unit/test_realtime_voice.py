"""Speaking on the Realtime wire: turns that the server finds or the client commits, and their
words."""

import base64
from typing import Any

import numpy as np
import pytest

from services.gateway.api.realtime.microphone import samples_of
from services.gateway.api.realtime.settings import AudioFormat
from sightline.errors import UnavailableError
from tests.eventually import eventually
from tests.unit.fake_worker import ANSWER, FakeWorker
from tests.unit.realtime_parts import Line, line_to
from tests.unit.test_gateway_voice import EarsOf
from tests.unit.voices import SILENCE, SPEECH, Hearsay, Loud, babble

RATE = 24_000
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
BY_HAND = {"audio": {"input": {"turn_detection": None}}}


class Ears(EarsOf):
    """Ears that are there, and hear what they are told."""

    configured = True


def _sound(probability: float, length_s: float) -> bytes:
    """PCM of the wire that is taken for speech with this probability."""
    return np.full(round(RATE * length_s), round(1000 * probability), np.int16).tobytes()


async def _send(line: Line, *pieces: bytes) -> None:
    for piece in pieces:
        for start in range(0, len(piece), 4801):  # not even whole samples
            audio = base64.b64encode(piece[start : start + 4801]).decode()
            await line.send("input_audio_buffer.append", audio=audio)


def _at_wire_rate(samples: np.ndarray) -> bytes:
    """16 kHz as PCM of the wire."""
    at = np.arange(round(len(samples) * RATE / 16_000)) * 16_000 / RATE
    return np.interp(at, np.arange(len(samples)), samples).astype(np.int16).tobytes()


async def _speak(line: Line) -> None:
    await _send(line, _sound(SPEECH, 0.6), _sound(SILENCE, 0.8))


async def test_a_spoken_question_is_heard_and_answered() -> None:
    worker = FakeWorker()
    async with line_to(worker, ears=Ears(Hearsay("What is there?"))) as line:
        await line.send("session.update", session={"instructions": "be kind"})
        session = (await line.until("session.updated"))["session"]
        assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"
        line.events.clear()
        await _speak(line)
        done = (await line.until("response.done"))["response"]
        assert done["output"][0]["content"][0]["text"] == ANSWER
        assert worker.asked[0].question.text == "What is there?"
        assert line.kinds()[:7] == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.input_audio_transcription.completed",
            "conversation.item.done",
            "response.created",
        ]
        started, stopped, committed, added, heard = line.events[:5]
        item = started["item_id"]
        assert item == stopped["item_id"] == committed["item_id"] == heard["item_id"]
        assert added["item"]["id"] == item
        assert added["item"]["content"] == [{"type": "input_audio", "transcript": None}]
        assert heard["transcript"] == "What is there?"
        assert 0 <= started["audio_start_ms"] < 200
        assert 500 < stopped["audio_end_ms"] < 800
        await line.send("conversation.item.retrieve", item_id=item)
        kept = (await line.until("conversation.item.retrieved"))["item"]
        assert kept["content"] == [{"type": "input_audio", "transcript": "What is there?"}]


async def test_an_answer_begins_before_the_silence_is_over_and_is_told_after_it() -> None:
    worker = FakeWorker()
    async with line_to(worker, ears=Ears(Hearsay("What is there?"))) as line:
        await line.ask("who is there")
        line.events.clear()
        await _send(line, _sound(SPEECH, 0.6), _sound(SILENCE, 0.3))
        await eventually(lambda: len(worker.asked) == 2)
        ahead = worker.asked[1]
        assert (ahead.ahead, ahead.question.text) == (True, "What is there?")
        assert [each.question for each in ahead.history] == ["who is there"]
        await _send(line, _sound(SILENCE, 0.5))
        done = (await line.until("response.done"))["response"]
        assert (done["id"], done["status"]) == (ahead.question.turn, "completed")
        assert len(worker.asked) == 2, "it is claimed, not asked again"
        kinds = line.kinds()
        assert kinds[:2] == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
        ]
        assert kinds.index("response.created") > kinds.index(TRANSCRIBED)


async def test_what_was_begun_in_a_pause_ends_with_what_is_cleared() -> None:
    worker = FakeWorker()
    worker.pause_after = 2
    async with line_to(worker, ears=Ears(Hearsay("What is there?"))) as line:
        await _send(line, _sound(SPEECH, 0.6), _sound(SILENCE, 0.3))
        await worker.paused.wait()
        await line.send("input_audio_buffer.clear")
        await eventually(lambda: worker.cancelled_answers == 1)
        await line.until("input_audio_buffer.cleared")
        assert not any(kind.startswith("response.") for kind in line.kinds())


async def test_who_speaks_into_an_answer_ends_it() -> None:
    worker = FakeWorker()
    worker.pause_after = 2
    async with line_to(worker, ears=Ears(Hearsay("and now"))) as line:
        await line.say("what is there")
        await line.send("response.create")
        await line.until("response.output_text.delta")
        worker.pause_after = None
        await _speak(line)
        done = (await line.until("response.done"))["response"]
        assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        assert (await line.until("response.done"))["response"]["status"] == "completed"
        assert worker.asked[1].question.text == "and now"


async def test_who_may_not_interrupt_is_answered_afterwards() -> None:
    worker = FakeWorker()
    worker.pause_after = 1
    detection = {"type": "semantic_vad", "eagerness": "high", "interrupt_response": False}
    async with line_to(worker, ears=Ears(Hearsay("and now"))) as line:
        await line.send(
            "session.update", session={"audio": {"input": {"turn_detection": detection}}}
        )
        await line.say("what is there")
        await line.send("response.create")
        await line.until("response.output_text.delta")
        await _speak(line)
        await line.until("conversation.item.input_audio_transcription.completed")
        worker.go_on.set()
        for _ in range(2):
            assert (await line.until("response.done"))["response"]["status"] == "completed"
        assert worker.asked[1].question.text == "and now"


async def test_a_client_may_commit_what_it_sends_by_itself() -> None:
    worker, hearsay = FakeWorker(), Hearsay("What is there?", "and now")
    async with line_to(worker, ears=Ears(hearsay)) as line:
        await line.send("session.update", session=BY_HAND)
        session = (await line.until("session.updated"))["session"]
        assert session["audio"]["input"]["turn_detection"] is None
        await line.send("input_audio_buffer.commit")
        assert (await line.next())["error"]["code"] == "input_audio_buffer_commit_empty"
        for text in ("What is there?", "and now"):
            hearsay.hear.clear()  # the words take longer than it takes to ask for an answer
            await _send(line, _sound(SPEECH, 0.6))
            await line.send("input_audio_buffer.commit")
            await line.send("response.create")
            await line.until("response.created")
            assert "input_audio_buffer.committed" in line.kinds()
            assert "input_audio_buffer.speech_started" not in line.kinds()
            hearsay.hear.set()
            assert (await line.until("response.done"))["response"]["status"] == "completed"
            assert worker.asked[-1].question.text == text


async def test_what_is_cleared_is_not_heard() -> None:
    worker, hearsay = FakeWorker(), Hearsay("forget it", "What is there?")
    async with line_to(worker, ears=Ears(hearsay)) as line:
        await line.send("session.update", session=BY_HAND)
        await _send(line, _sound(SPEECH, 0.6))
        await eventually(lambda: hearsay.prompts)
        await line.send("input_audio_buffer.clear")
        await line.until("input_audio_buffer.cleared")
        await line.send("input_audio_buffer.commit")
        assert (await line.next())["error"]["code"] == "input_audio_buffer_commit_empty"
        await _send(line, _sound(SPEECH, 0.6))
        await line.send("input_audio_buffer.commit")
        heard = await line.until("conversation.item.input_audio_transcription.completed")
        assert heard["transcript"] == "What is there?"


class Loudly(Ears):
    """Ears that take whatever is loud for speech."""

    def activity(self) -> Any:
        return Loud()


async def test_its_own_voice_out_of_the_clients_loudspeaker_is_no_question() -> None:
    """And neither silences the client nor ends the response; somebody else's does, at once."""
    worker = FakeWorker()
    worker.answer, worker.word_s = "three circles", 1.5
    worker.voice = lambda samples: babble(samples / 16_000, seed=1).astype(np.int16).tobytes()
    hearsay = Hearsay("three", "and now")
    async with line_to(worker, speech=True, ears=Loudly(hearsay)) as line:
        await _send(line, _sound(0, 0.2))  # its microphone is open
        await line.ask("what is there")
        deltas = [each for each in line.events if each["type"] == "response.output_audio.delta"]
        ours = np.frombuffer(b"".join(base64.b64decode(each["delta"]) for each in deltas), np.int16)
        line.events.clear()
        quiet = _sound(0, 1.2)
        echo = (0.3 * ours[:24_000]).astype(np.int16).tobytes()
        await _send(line, _sound(0, 0.2), echo, quiet)
        await eventually(lambda: len(hearsay.heard_s) == 1)
        await _send(line, _at_wire_rate(babble(1.0, seed=2)), quiet)
        done = (await line.until("response.done"))["response"]
        assert done["status"] == "completed"
        heard = [each for each in line.events if each["type"] == TRANSCRIBED]
        assert [each["transcript"] for each in heard] == ["and now"]
        assert line.kinds().count("input_audio_buffer.speech_started") == 1
        assert line.kinds().count("input_audio_buffer.committed") == 1
        assert [each.question.text for each in worker.asked] == ["what is there", "and now"]


async def test_who_speaks_louder_than_our_echo_has_a_turn_of_their_own() -> None:
    """The client falls silent before a word is known, and our words are not among theirs."""
    worker = FakeWorker()
    worker.answer, worker.word_s = "a glove is at the right", 0.5
    worker.voice = lambda samples: babble(samples / 16_000, seed=1).astype(np.int16).tobytes()
    hearsay = Hearsay("a glove is at the", "where is the glove")
    async with line_to(worker, speech=True, ears=Loudly(hearsay)) as line:
        await _send(line, _sound(0, 0.2))  # its microphone is open
        await line.ask("what is there")
        line.events.clear()
        hearsay.hear.clear()
        await _send(line, _at_wire_rate(0.3 * babble(3.0, seed=1)[:11_200]))
        await eventually(lambda: hearsay.prompts)
        assert "input_audio_buffer.speech_started" not in line.kinds()
        await _send(line, _at_wire_rate(babble(1.0, seed=2)))
        started = await line.until("input_audio_buffer.speech_started")
        assert 500 < started["audio_start_ms"] < 1000  # the echo began at 200 and theirs at 900
        await _send(line, _sound(0, 1.2))
        hearsay.hear.set()
        assert (await line.until(TRANSCRIBED))["transcript"] == "where is the glove"
        await line.until("response.done")
        assert [each.question.text for each in worker.asked] == [
            "what is there",
            "where is the glove",
        ]
        assert len(hearsay.heard_s) == 1, "nobody waited for the words of the echo"
        assert hearsay.heard_s[0] < 1.9


async def test_words_that_do_not_come_are_told_and_end_no_line() -> None:
    hearsay = Hearsay()
    hearsay.fails = UnavailableError("speech recognition is restarting")
    async with line_to(ears=Ears(hearsay)) as line:
        await _speak(line)
        failed = await line.until("conversation.item.input_audio_transcription.failed")
        assert failed["error"]["code"] == "unavailable"
        assert (await line.ask("what is there"))["status"] == "completed"


async def test_sound_goes_nowhere_where_nobody_hears() -> None:
    """LiveKit and Pipecat send the microphone's in any case, and hang up at errors."""
    async with line_to() as line:
        await line.send("session.update", session={"instructions": "be kind"})
        session = (await line.until("session.updated"))["session"]
        assert session["audio"]["input"]["turn_detection"] is None
        await _speak(line)
        await line.send("input_audio_buffer.commit")
        assert (await line.next())["error"]["code"] == "input_audio_not_supported"
        assert (await line.ask("what is there"))["status"] == "completed"


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
async def test_g711_is_heard(kind: str) -> None:
    law = samples_of(AudioFormat(type=kind)).astype(int)
    coded = [int(np.argmin(abs(law - 1000 * level))) for level in (SPEECH, SILENCE)]
    speech, silence = (bytes([code]) * 8000 for code in coded)
    wanted: dict[str, Any] = {"format": {"type": kind}}
    async with line_to(ears=Ears(Hearsay("What is there?"))) as line:
        await line.send("session.update", session={"audio": {"input": wanted}})
        for piece in (speech[:5000], silence[:6400]):
            audio = base64.b64encode(piece).decode()
            await line.send("input_audio_buffer.append", audio=audio)
        heard = await line.until("conversation.item.input_audio_transcription.completed")
        assert heard["transcript"] == "What is there?"
