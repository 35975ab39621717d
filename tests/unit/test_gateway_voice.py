"""Viewers who speak, over gRPC: questions, interruptions and what is kept of an answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from services.gateway.voice.ears import Ears
from services.gateway.voice.turn_detector import TurnRules
from sightline.errors import UnavailableError
from sightline.v1 import dialogue_pb2_grpc
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_dialogue import FakeDialogue
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import Parts, running
from tests.unit.served import served
from tests.unit.test_gateway_viewers import Viewer
from tests.unit.voices import SILENCE, SPEECH, Hearsay, Loud, Told, audio, babble

RATE = 16_000
ANSWER = "one two three four five six"


class EarsOf(Ears):
    """Ears that hear what they are told."""

    def __init__(self, recogniser: Hearsay) -> None:
        super().__init__(None, TurnRules())
        self.hearsay = recogniser

    def hearing(self) -> Hearsay:
        return self.hearsay

    def activity(self) -> Told:
        return Told()


class Loudly(EarsOf):
    """Ears that take whatever is loud for speech."""

    def activity(self) -> Any:
        return Loud()


class Speaker(Viewer):
    """A viewer with a microphone."""

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            for start in range(0, len(piece), 16_000):
                chunk = pb.AudioChunk(sample_rate=RATE, pcm=piece[start : start + 16_000])
                await self.send(audio_chunk=chunk)

    async def say_all(self) -> None:
        """Whatever its words are, and the silence that ends them."""
        await self.say(audio(SPEECH, 0.6), audio(SILENCE, 0.7))

    async def played(self, turn: str, played_s: float) -> None:
        await self.send(playback_ack=pb.PlaybackAck(turn=turn, played_s=played_s))

    async def until_final(self) -> pb.Transcript:
        while not (transcript := (await self.until("transcript")).transcript).final:
            pass
        return transcript


@asynccontextmanager
async def talking(
    *words: str,
    dialogue: FakeDialogue | None = None,
    speech: bool = True,
    ears: type[EarsOf] = EarsOf,
) -> AsyncIterator[tuple[Speaker, FakeWorker, Hearsay]]:
    """A viewer on a session, who says `words` turn by turn."""
    worker, hearsay = FakeWorker(), Hearsay(*words)
    worker.answer, worker.word_s, worker.kept = ANSWER, 1.0, True
    add = dialogue_pb2_grpc.add_DialogueServiceServicer_to_server
    async with (
        served(add, dialogue or FakeDialogue()) as address,
        running(worker, dialogue=address) as parts,
    ):
        parts.viewers.ears = ears(hearsay)
        yield await _speaker(parts, speech), worker, hearsay


async def _speaker(parts: Parts, speech: bool) -> Speaker:
    session = await parts.push_session(seen=True)
    speaker = Speaker(parts, session.id, speech=speech, conversation="c1")
    await speaker.begin()
    return speaker


async def test_what_is_said_is_shown_and_asked() -> None:
    async with talking("what do you see?") as (viewer, worker, _):
        await viewer.say_all()
        transcript = await viewer.until_final()
        assert transcript.text == "what do you see?"
        assert 0 < transcript.start_ns < transcript.end_ns
        done = (await viewer.until("answer_done")).answer_done
        assert done.turn == transcript.turn
        assert worker.asked[-1].question.text == "what do you see?"
        partial = next(event.transcript for event in viewer.events if event.HasField("transcript"))
        assert (partial.turn, partial.final) == (transcript.turn, False)


async def test_an_answer_begins_before_the_silence_is_over_and_is_told_after_it() -> None:
    dialogue = FakeDialogue()
    dialogue.rounds["c1"] = []
    async with talking("what do you see?", dialogue=dialogue) as (viewer, worker, _):
        await viewer.say(audio(SPEECH, 0.6), audio(SILENCE, 0.3))
        await eventually(lambda: worker.asked)
        assert (worker.asked[0].question.text, worker.asked[0].ahead) == ("what do you see?", True)
        [inside] = viewer.parts.viewers.all()
        await eventually(lambda: not inside._questions._begun)  # it is whole
        assert not inside.is_answering
        assert dialogue.rounds["c1"] == []
        await viewer.say(audio(SILENCE, 0.4))
        transcript = await viewer.until_final()
        assert (await viewer.until("answer_started")).answer_started.turn == transcript.turn
        done = (await viewer.until("answer_done")).answer_done
        assert (done.turn, done.text) == (transcript.turn, ANSWER)
        [round_] = await eventually(lambda: dialogue.rounds["c1"])
        assert (round_.turn, round_.answer) == (transcript.turn, ANSWER)
        assert len(worker.asked) == 1
        told = [event.WhichOneof("event") for event in viewer.events]
        assert told.index("answer_started") > told.index("transcript") + 1  # the final one
        assert told.count("answer_done") == 1


async def test_what_was_begun_in_a_pause_was_never_asked_when_more_is_said() -> None:
    dialogue = FakeDialogue()
    dialogue.rounds["c1"] = []
    async with talking("is it red| or blue?", dialogue=dialogue) as (viewer, worker, hearsay):
        worker.answering.clear()
        await viewer.say(audio(SPEECH, 0.6), audio(SILENCE, 0.3))
        await eventually(lambda: hearsay.pauses)
        await eventually(lambda: worker.asked)
        await viewer.say(audio(SPEECH, 0.6), audio(SILENCE, 0.3))
        await eventually(lambda: len(worker.asked) == 2)
        worker.answering.set()
        await viewer.say(audio(SILENCE, 0.4))
        transcript = await viewer.until_final()
        done = (await viewer.until("answer_done")).answer_done
        assert (transcript.text, done.turn) == ("is it red or blue?", transcript.turn)
        assert [each.question.text for each in worker.asked] == ["is it red", "is it red or blue?"]
        [round_] = await eventually(lambda: dialogue.rounds["c1"])
        assert round_.question == "is it red or blue?"
        started = [event for event in viewer.events if event.HasField("answer_started")]
        assert len(started) == 1


async def test_what_failed_in_a_pause_is_asked_as_if_it_had_not_been() -> None:
    async with talking("what do you see?") as (viewer, worker, _):
        worker.failures["Answer"] = [grpc.StatusCode.INVALID_ARGUMENT]
        await viewer.say(audio(SPEECH, 0.6), audio(SILENCE, 0.3))
        [inside] = viewer.parts.viewers.all()
        await eventually(lambda: worker.asked and not inside._questions._begun)
        await viewer.say(audio(SILENCE, 0.4))
        assert (await viewer.until("answer_done")).answer_done.text == ANSWER
        assert [each.ahead for each in worker.asked] == [True, False]
        assert not [event for event in viewer.events if event.HasField("error")]


async def test_what_was_begun_in_a_pause_ends_with_a_cancel_and_with_the_microphone() -> None:
    async with talking("what do you see?", "And now?") as (viewer, worker, _):
        [inside] = viewer.parts.viewers.all()
        worker.pause_after = 2
        await viewer.say(audio(SPEECH, 0.6), audio(SILENCE, 0.3))
        await worker.paused.wait()
        await viewer.say(audio(SILENCE, 0.4))
        turn = (await viewer.until_final()).turn
        await viewer.until("text_delta")
        await viewer.send(cancel=pb.Cancel(turn=turn))
        done = (await viewer.until("answer_done")).answer_done
        assert (done.turn, done.finish_reason) == (turn, pb.FINISH_REASON_CANCELLED)
        await eventually(lambda: worker.cancelled_answers == 1)
        worker.paused.clear()
        await viewer.say(audio(SPEECH, 0.6), audio(SILENCE, 0.3))
        await worker.paused.wait()
        inside._talk.break_off()
        await eventually(lambda: worker.cancelled_answers == 2 and not inside._questions._begun)


async def test_a_worker_of_before_is_asked_when_the_silence_is_over() -> None:
    async with talking("what do you see?") as (viewer, worker, hearsay):
        [inside] = viewer.parts.viewers.all()
        description = inside.session.worker.description
        assert description is not None
        description.protocol_minor = 3
        await viewer.say(audio(SPEECH, 0.6), audio(SILENCE, 0.3))
        await viewer.until("transcript")
        assert (hearsay.pauses, worker.asked) == (1, [])
        await viewer.say(audio(SILENCE, 0.4))
        await viewer.until("answer_done")
        assert [each.ahead for each in worker.asked] == [False]


async def test_words_of_the_model_s_card_are_likely() -> None:
    async with talking("what do you see?") as (viewer, _, hearsay):
        [inside] = viewer.parts.viewers.all()
        description = inside.session.worker.description
        assert description is not None
        description.card.questions[:] = ["What do you see?", "x" * 300, "Is it red?"]
        await viewer.say_all()
        await viewer.until_final()
        assert hearsay.prompts == ["What do you see? Is it red?"]


async def test_speech_into_an_answer_silences_it_and_words_end_it() -> None:
    dialogue = FakeDialogue()
    dialogue.rounds["c1"] = []
    async with talking("and the square?", dialogue=dialogue) as (viewer, worker, _):
        await viewer.ask("count", turn="t1")
        await viewer.until("answer_done")  # it is made, and three of its six seconds were played
        await viewer.played("t1", 3.0)
        await viewer.say(audio(SPEECH, 0.2))
        pause = (await viewer.until("playback")).playback
        assert (pause.turn, pause.action) == ("t1", pb.PLAYBACK_ACTION_PAUSE)
        await viewer.say_all()
        stop = (await viewer.until("playback")).playback
        assert (stop.turn, stop.action) == ("t1", pb.PLAYBACK_ACTION_STOP)
        assert stop.heard == "one two three"
        transcript = await viewer.until_final()
        assert (await viewer.until("answer_done")).answer_done.turn == transcript.turn
        await eventually(lambda: dialogue.rounds["c1"])
        # That of the next answer may be there by then.
        [round_] = [each for each in dialogue.rounds["c1"] if each.turn != transcript.turn]
        assert (round_.turn, round_.answer) == ("t1", "one two three")
        assert round_.cut
        assert worker.cancelled_answers == 0


async def test_an_answer_that_is_being_made_is_cancelled_after_it_is_silent() -> None:
    async with talking("stop") as (viewer, worker, _):
        worker.pause_after = 2
        await viewer.ask("count", turn="t1")
        await worker.paused.wait()
        worker.pause_after = None
        await viewer.until("audio_chunk")
        await viewer.say_all()
        done = (await viewer.until("answer_done")).answer_done
        assert (done.turn, done.finish_reason) == ("t1", pb.FINISH_REASON_CANCELLED)
        ends = [
            event.playback.action if event.HasField("playback") else event.WhichOneof("event")
            for event in viewer.events
            if event.WhichOneof("event") in ("playback", "answer_done")
        ]
        assert ends == [pb.PLAYBACK_ACTION_PAUSE, pb.PLAYBACK_ACTION_STOP, "answer_done"]
        await eventually(lambda: worker.cancelled_answers == 1)


async def test_a_noise_lets_the_answer_go_on() -> None:
    async with talking() as (viewer, worker, _):
        await viewer.ask("count", turn="t1")
        await viewer.until("answer_done")
        await viewer.played("t1", 1.0)
        await viewer.say(audio(SPEECH, 0.2), audio(SILENCE, 0.3))
        actions = [(await viewer.until("playback")).playback.action for _ in range(2)]
        assert actions == [pb.PLAYBACK_ACTION_PAUSE, pb.PLAYBACK_ACTION_RESUME]
        assert len(worker.asked) == 1


async def test_speech_without_words_lets_the_answer_go_on() -> None:
    async with talking("Mm-hmm.") as (viewer, worker, _):
        await viewer.ask("count", turn="t1")
        await viewer.until("answer_done")
        await viewer.played("t1", 1.0)
        await viewer.say_all()
        actions = [(await viewer.until("playback")).playback.action for _ in range(2)]
        assert actions == [pb.PLAYBACK_ACTION_PAUSE, pb.PLAYBACK_ACTION_RESUME]
        assert (await viewer.until_final()).text == ""
        assert len(worker.asked) == 1


async def test_a_question_that_is_like_our_words_is_not_spoken_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found in a browser: it was like our echo until it was whole, and we went on behind it."""
    monkeypatch.setattr("services.gateway.voice.doubt.FALSE_ALARM_S", 0.0)
    async with talking("What does the sign say?") as (viewer, worker, hearsay):
        worker.answer, worker.word_s = "right and the sign says hot", 1.0
        await viewer.ask("what do you see", turn="t1")
        await viewer.until("answer_done")
        await viewer.played("t1", 1.0)
        await viewer.say(audio(SPEECH, 0.6), audio(SILENCE, 0.3))
        await eventually(lambda: hearsay.pauses)
        await viewer.say(audio(SILENCE, 0.4))
        assert (await viewer.until_final()).text == "What does the sign say?"
        told = [each.playback.action for each in viewer.events if each.HasField("playback")]
        assert told == [pb.PLAYBACK_ACTION_PAUSE, pb.PLAYBACK_ACTION_STOP]


async def test_its_own_voice_in_the_microphone_is_no_question() -> None:
    async with talking("Two three.") as (viewer, worker, _):
        await viewer.ask("count", turn="t1")
        await viewer.until("answer_done")
        await viewer.played("t1", 3.5)
        await viewer.say_all()
        actions = [(await viewer.until("playback")).playback.action for _ in range(2)]
        assert actions == [pb.PLAYBACK_ACTION_PAUSE, pb.PLAYBACK_ACTION_RESUME]
        assert (await viewer.until_final()).text == ""
        assert len(worker.asked) == 1


async def test_its_own_voice_out_of_a_loudspeaker_does_not_silence_it() -> None:
    """By the sound of it, before a word is known; another voice silences it at once."""
    async with talking("one two", "and the square?", ears=Loudly) as (viewer, worker, _):
        worker.voice = lambda samples: babble(samples / RATE, seed=1).astype(np.int16).tobytes()
        await viewer.say(bytes(RATE // 5 * 2))  # the microphone is open
        await viewer.ask("count", turn="t1")
        await viewer.until("answer_done")
        ours = 0.3 * babble(1.0, seed=1)[: RATE // 10 * 7]
        quiet = bytes(RATE * 2)
        await viewer.say(ours.astype(np.int16).tobytes(), quiet)
        assert (await viewer.until_final()).text == ""
        assert not any(event.HasField("playback") for event in viewer.events)
        await viewer.say(babble(0.7, seed=2).astype(np.int16).tobytes(), quiet)
        pause = (await viewer.until("playback")).playback
        assert (pause.turn, pause.action) == ("t1", pb.PLAYBACK_ACTION_PAUSE)
        assert (await viewer.until_final()).text == "and the square?"
        await eventually(lambda: len(worker.asked) == 2)


async def test_an_echo_may_come_when_a_short_answer_is_over() -> None:
    async with talking("Six. Six.", ears=Loudly) as (viewer, worker, _):
        worker.answer, worker.word_s = "six", 0.6
        worker.voice = lambda samples: babble(samples / RATE, seed=1).astype(np.int16).tobytes()
        await viewer.say(bytes(RATE // 5 * 2))  # the microphone is open
        await viewer.ask("count", turn="t1")
        await viewer.until("answer_done")
        await viewer.played("t1", 0.6)
        ours = 0.3 * babble(0.6, seed=1)
        await viewer.say(ours.astype(np.int16).tobytes(), bytes(RATE * 2))
        assert (await viewer.until_final()).text == ""
        assert len(worker.asked) == 1


async def test_a_misheard_echo_of_one_word_is_no_question() -> None:
    """Found in a browser: "live" came back, and was heard as "Why?"."""
    async with talking("Why?", ears=Loudly) as (viewer, worker, _):
        worker.answer, worker.word_s = "live", 0.6
        worker.voice = lambda samples: babble(samples / RATE, seed=1).astype(np.int16).tobytes()
        await viewer.say(bytes(RATE // 5 * 2))  # the microphone is open
        await viewer.ask("what does the sign say", turn="t1")
        await viewer.until("answer_done")
        ours = 0.3 * babble(0.45, seed=1)
        await viewer.say(ours.astype(np.int16).tobytes(), bytes(RATE * 2))
        assert (await viewer.until_final()).text == ""
        assert not any(event.HasField("playback") for event in viewer.events)
        assert len(worker.asked) == 1


async def test_who_speaks_louder_than_an_echo_has_a_turn_of_their_own() -> None:
    """We are silent before a word is known, and our words are not among theirs."""
    heard = ("a glove is at the", "where is the glove?")
    async with talking(*heard, ears=Loudly) as (viewer, worker, hearsay):
        worker.answer = "a glove is at the right"
        worker.voice = lambda samples: babble(samples / RATE, seed=1).astype(np.int16).tobytes()
        await viewer.say(bytes(RATE // 5 * 2))  # the microphone is open
        await viewer.ask("what do you see", turn="t1")
        await viewer.until("answer_done")
        hearsay.hear.clear()
        ours, theirs = 0.3 * babble(1.0, seed=1)[: RATE // 10 * 7], babble(1.0, seed=2)
        await viewer.say(ours.astype(np.int16).tobytes())
        await eventually(lambda: hearsay.prompts)
        assert not any(event.HasField("playback") for event in viewer.events)
        await viewer.say(theirs.astype(np.int16).tobytes())
        echo = await viewer.until_final()
        assert echo.text == ""
        pause = (await viewer.until("playback")).playback
        assert (pause.turn, pause.action) == ("t1", pb.PLAYBACK_ACTION_PAUSE)
        hearsay.hear.set()
        await viewer.say(bytes(RATE * 2))
        asked = await viewer.until_final()
        assert (asked.text, asked.turn != echo.turn) == ("where is the glove?", True)
        await eventually(lambda: len(worker.asked) == 2)
        assert worker.asked[1].question.text == "where is the glove?"
        assert len(hearsay.heard_s) == 1, "nobody waited for the words of the echo"
        assert hearsay.heard_s[0] < 1.9


async def test_who_speaks_as_softly_as_an_echo_is_heard_without_it() -> None:
    words = "one two three four and the square?"
    async with talking(words, ears=Loudly) as (viewer, worker, _):
        worker.voice = lambda samples: babble(samples / RATE, seed=1).astype(np.int16).tobytes()
        await viewer.say(bytes(RATE // 5 * 2))  # the microphone is open
        await viewer.ask("count", turn="t1")
        await viewer.until("answer_done")
        ours, theirs = 0.3 * babble(1.0, seed=1)[: RATE // 10 * 7], 0.3 * babble(0.7, seed=2)
        both = np.concatenate((ours, theirs)).astype(np.int16).tobytes()
        await viewer.say(both, bytes(RATE * 2))
        assert (await viewer.until_final()).text == "and the square?"
        await eventually(lambda: len(worker.asked) == 2)
        assert worker.asked[1].question.text == "and the square?"


async def test_a_question_is_not_lost_among_our_own_words() -> None:
    """Found in a browser: most of what was heard was ours, and all of it was taken for that."""
    said = "a gun is in the middle and a green glove is at the right"
    async with talking(f"Where is the green glove? And {said}", ears=Loudly) as (viewer, worker, _):
        worker.answer, worker.word_s = said, 0.3
        worker.voice = lambda samples: babble(samples / RATE, seed=1).astype(np.int16).tobytes()
        await viewer.say(bytes(RATE // 5 * 2))  # the microphone is open
        await viewer.ask("what do you see", turn="t1")
        await viewer.until("answer_done")
        ours, theirs = 0.3 * babble(1.0, seed=1)[: RATE // 10 * 7], 0.3 * babble(0.7, seed=2)
        both = np.concatenate((ours, theirs)).astype(np.int16).tobytes()
        await viewer.say(both, bytes(RATE * 2))
        heard = (await viewer.until_final()).text
        assert heard.startswith("Where is the green glove?"), heard
        assert "middle" not in heard
        await eventually(lambda: len(worker.asked) == 2)


async def test_a_button_that_is_held_makes_a_question_of_what_is_said() -> None:
    async with talking("one", "two") as (viewer, worker, _):
        await viewer.send(listen=pb.Listen(mode=pb.LISTEN_MODE_HOLD))
        await viewer.say(audio(SPEECH, 0.5), audio(SILENCE, 1.5), audio(SPEECH, 0.5))
        await viewer.send(listen=pb.Listen(mode=pb.LISTEN_MODE_OFF))
        assert (await viewer.until_final()).text == "one"
        await viewer.until("answer_done")
        await viewer.say_all()  # the microphone is off
        await viewer.ask("typed", turn="t2")
        await viewer.until("answer_done")
        assert [asked.question.text for asked in worker.asked] == ["one", "typed"]


async def test_a_typed_cancel_keeps_what_was_heard() -> None:
    dialogue = FakeDialogue()
    dialogue.rounds["c1"] = []
    async with talking(dialogue=dialogue) as (viewer, worker, _):
        await viewer.ask("first", turn="t0")
        await viewer.until("answer_done")
        worker.pause_after = 4
        await viewer.ask("count", turn="t1")
        await worker.paused.wait()
        for _ in range(4):
            await viewer.until("audio_chunk")
        await viewer.played("t1", 2.0)
        await viewer.send(cancel=pb.Cancel(turn="t1"))
        await viewer.until("answer_done")
        rounds = await eventually(lambda: dialogue.rounds["c1"])
        assert (rounds[0].turn, rounds[0].answer, rounds[0].cut) == ("t1", "one two", True)


async def test_a_recogniser_that_is_away_is_said_and_typing_goes_on() -> None:
    async with talking() as (viewer, _, hearsay):
        hearsay.fails = UnavailableError("Speech recognition is away")
        await viewer.say_all()
        error = (await viewer.until("error")).error
        assert (error.code, error.message) == ("UNAVAILABLE", "Speech recognition is away")
        await viewer.ask("typed", turn="t2")
        await viewer.until("answer_done")


@pytest.mark.parametrize("audio_first", [True, False])
async def test_a_gateway_without_ears_says_so_once(audio_first: bool) -> None:
    async with running(FakeWorker()) as parts:
        viewer = await _speaker(parts, speech=False)
        if not audio_first:
            await viewer.send(listen=pb.Listen(mode=pb.LISTEN_MODE_HANDS_FREE))
        await viewer.say_all()
        await viewer.ask("typed", turn="t2")
        await viewer.until("answer_done")
        errors = [event.error.reason for event in viewer.events if event.HasField("error")]
        assert errors == ["VOICE_NOT_CONFIGURED"]
        assert not (await parts.stub.GetServerInfo(pb.GetServerInfoRequest())).voice
