"""Talking: how well questions are heard, and how soon they are answered.

A hundred questions about the world of shapes, spoken by an installed Piper voice, are heard by the
suite's own recogniser, clean and in white noise 10 dB below the speech: the share of wrong words.
Then somebody talks with a live session: from the end of the speech to the first audio of the
answer, by stages, and from the first sound of speech into an answer to its silence. What
`make voice-test` installs is needed.
"""

import asyncio
import itertools
import random
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.processes import running
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Latency
from benchmarks.talker import Talker, Utterance
from services.common.asr_client import AsrClient
from services.gateway.voice.phrases import prompt_of
from services.local.process import is_serving
from services.tts.engines import Engine, PiperEngine
from services.tts.voices import installed_voice
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import gateway_pb2_grpc
from tests.processes import SHAPES as SHAPES_MODEL
from tests.suite import write_clip
from training import phrasings
from training.vocabulary import COLOURS, PLURALS, SHAPES

LIVE = pb.SESSION_STATE_LIVE
NUM_QUESTIONS, NUM_TURNS = 100, 20
QUICK_QUESTIONS, QUICK_TURNS = 10, 3
NOISE_DB = 10.0
START_S = 120.0
STAGES = ("silence and words", "model", "voice", "all")
_SAME = {  # words that are said alike
    "colour": "color",
    "colours": "colors",
    **{"what's": "what is", "where's": "where is", "which's": "which is", "it's": "it is"},
    **{"there's": "there is", "cross's": "crosses"},
    **{"1": "one", "2": "two", "3": "three", "4": "four", "5": "five"},
}


def questions(count: int) -> list[str]:
    """Different questions of that world, drawn from all of its phrasings."""
    shapes, paints = [*SHAPES], [*COLOURS]
    things = [f"{paint} {shape}" for paint, shape in itertools.product(paints, shapes)]
    texts = [
        *(text.format(each) for text, each in itertools.product(phrasings.COLOUR, shapes)),
        *(text.format(each) for text, each in itertools.product(phrasings.SHAPE, paints)),
        *phrasings.COUNT,
        *(
            text.format(each)
            for text, each in itertools.product(phrasings.COUNT_SOME, PLURALS.values())
        ),
        *(text.format(each) for text, each in itertools.product(phrasings.PRESENCE, things)),
        *(text.format(each) for text, each in itertools.product(phrasings.DIRECTION, shapes)),
        *phrasings.IT_COLOUR,
        *phrasings.IT_SHAPE,
        *phrasings.IT_MOVING,
        *phrasings.SCENE,
    ]
    return random.Random(7).sample(sorted(set(texts)), count)


def words(text: str) -> list[str]:
    """Words, as they sound."""
    said = re.findall(r"[a-z0-9']+", text.lower().replace("’", "'"))
    return " ".join(_SAME.get(word, word) for word in said).split()


def wrong_words(said: str, heard: str) -> tuple[int, int]:
    """Words that were replaced, left out or put in, and words that were said."""
    before, after = words(said), words(heard)
    costs = list(range(len(after) + 1))
    for number, word in enumerate(before, 1):
        diagonal, costs[0] = costs[0], number
        for at, other in enumerate(after, 1):
            best = min(costs[at] + 1, costs[at - 1] + 1, diagonal + (word != other))
            diagonal, costs[at] = costs[at], best
    return costs[-1], len(before)


def spoken(engine: Engine, text: str) -> Utterance:
    pcm = bytearray()

    def take(piece: bytes) -> bool:
        pcm.extend(piece)
        return True

    engine.speak(text, engine.default_voice, 1.0, take)
    return Utterance(text, bytes(pcm), engine.sample_rate)


def noisy(utterance: Utterance, seed: int) -> Utterance:
    """With white noise, `NOISE_DB` below the mean power of what is said."""
    samples = np.frombuffer(utterance.pcm, np.int16).astype(np.float64)
    scale = np.sqrt(np.mean(samples**2) / 10 ** (NOISE_DB / 10))
    noise = np.random.default_rng(seed).normal(0, scale, len(samples))
    pcm = np.clip(samples + noise, -32768, 32767).astype(np.int16).tobytes()
    return Utterance(utterance.text, pcm, utterance.sample_rate)


async def _hear(client: AsrClient, utterance: Utterance, prompt: str) -> str:
    async def pieces() -> AsyncIterator[bytes]:
        yield utterance.pcm

    async for reply in client.transcribe(pieces(), utterance.sample_rate, prompt=prompt):
        if reply.final:
            return str(reply.text)
    return ""


async def _measure(quick: bool, report: Report) -> dict[str, Any]:
    path = installed_voice()
    if path is None:
        raise SystemExit("no voice to speak with is installed: make voice-test")
    engine = PiperEngine(path)
    texts = questions(QUICK_QUESTIONS if quick else NUM_QUESTIONS)
    found: dict[str, Any] = {"voice": path.name, "questions": len(texts)}
    with tempfile.TemporaryDirectory() as folder:
        media = Path(folder) / "media"
        media.mkdir()
        clip = write_clip(media, seed=5, seconds=16)
        async with running(Path(folder), media=media, model=str(SHAPES_MODEL)) as suite:
            asr = suite.suite.asr
            if asr is None:
                raise SystemExit("what hears is not installed: make voice-test")
            async with asyncio.timeout(START_S):
                while not await is_serving(asr.address):  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.2)
            client = AsrClient(asr.address)
            prompt = await _prompt(suite.gateway)
            utterances = []
            for number, text in enumerate(texts):
                report("speaking the questions", number / len(texts) / 4)
                utterances.append(await asyncio.to_thread(spoken, engine, text))
            for kind, share in (("clean", 0.25), ("noisy", 0.5)):
                found[kind] = await _error_rate(client, utterances, prompt, kind, share, report)
            await client.aclose()
            async with grpc.aio.insecure_channel(suite.gateway) as channel:
                stub: Any = gateway_pb2_grpc.SightlineServiceStub(channel)
                turns = utterances[: QUICK_TURNS if quick else NUM_TURNS]
                found |= await _talk(stub, clip.path.name, engine, turns, report)
    return found


async def _prompt(gateway: str) -> str:
    """What the gateway tells the recogniser of its model."""
    async with grpc.aio.insecure_channel(gateway) as channel:
        stub: Any = gateway_pb2_grpc.SightlineServiceStub(channel)
        info = await stub.GetServerInfo(pb.GetServerInfoRequest())
    return prompt_of(info.models[0].card)


async def _error_rate(
    client: AsrClient,
    utterances: list[Utterance],
    prompt: str,
    kind: str,
    share: float,
    report: Report,
) -> dict[str, Any]:
    wrong = all_words = 0
    mistakes = []
    for number, utterance in enumerate(utterances):
        report(f"hearing them, {kind}", share + number / len(utterances) / 4)
        said_so = noisy(utterance, number) if kind == "noisy" else utterance
        heard = await _hear(client, said_so, prompt)
        missed, said = wrong_words(utterance.text, heard)
        wrong, all_words = wrong + missed, all_words + said
        if missed:
            mistakes.append({"said": utterance.text, "heard": heard})
    return {"word_error_rate": wrong / all_words, "words": all_words, "mistakes": mistakes}


async def _talk(
    stub: Any, clip: str, engine: Engine, turns: list[Utterance], report: Report
) -> dict[str, Any]:
    options = pb.SessionOptions(loop=True)
    session = await stub.CreateSession(pb.CreateSessionRequest(source=clip, options=options))
    waits: dict[str, list[float]] = {stage: [] for stage in STAGES}
    silences = []
    interruption = await asyncio.to_thread(spoken, engine, "Wait, tell me about the colors.")
    async with Talker(stub, session.id, engine.sample_rate) as talker:
        await talker.until(lambda event: event.session_state.state == LIVE)
        for number, utterance in enumerate(turns):
            report("talking", 0.75 + number / len(turns) / 4)
            first = len(talker.events)
            _, end_s = await talker.say(utterance)
            words_s, event = await talker.until(lambda event: event.transcript.final, since=first)
            turn = event.transcript.turn
            text_s, _ = await talker.until(_of("text_delta", turn), since=first)
            audio_s, _ = await talker.until(_of("audio_chunk", turn), since=first)
            for stage, wait_s in zip(
                STAGES,
                (words_s - end_s, text_s - words_s, audio_s - text_s, audio_s - end_s),
                strict=True,
            ):
                waits[stage].append(1000 * wait_s)
            await talker.until(_of("answer_done", turn), since=first)
            # Into every answer somebody speaks, before it is over.
            first = len(talker.events)
            begun_s, _ = await talker.say(interruption)
            paused = [
                came_s
                for came_s, event in talker.events[first:]
                if event.playback.action == pb.PLAYBACK_ACTION_PAUSE
            ]
            silences += [1000 * (came_s - begun_s) for came_s in paused[:1]]
            _, event = await talker.until(lambda event: event.transcript.final, since=first)
            turn = event.transcript.turn
            await talker.until(_of("answer_done", turn), since=first)
            await asyncio.sleep(3.0)  # until the answer has been played
    return {"waits_ms": waits, "silence_ms": silences, "interrupted": len(silences)}


def _of(kind: str, turn: str) -> Callable[[pb.ServerEvent], bool]:
    """Matches events of a kind that belong to a turn."""
    return lambda event: bool(getattr(event, kind).turn == turn)


def run(report: Report, *, quick: bool) -> Result:
    found = asyncio.run(_measure(quick, report))
    waits = {stage: Latency.of_ms(found["waits_ms"][stage]) for stage in STAGES}
    silence = Latency.of_ms(found["silence_ms"])
    rows = [
        (stage, f"{each.p50_ms:.0f} ms", f"{each.p95_ms:.0f} ms") for stage, each in waits.items()
    ]
    rows.append(("speech to silence", f"{silence.p50_ms:.0f} ms", f"{silence.p95_ms:.0f} ms"))
    errors = [
        (kind, f"{100 * found[kind]['word_error_rate']:.1f} %", str(found[kind]["words"]))
        for kind in ("clean", "noisy")
    ]
    return Result(
        name="voice",
        tables=[
            Table("Wrong words", ("", "share", "of words"), errors),
            Table("From the end of speech to the first audio", ("stage", "p50", "p95"), rows),
        ],
        targets=[
            Target("wrong words, clean", 100 * found["clean"]["word_error_rate"], 3.0, "%"),
            Target("wrong words, noisy", 100 * found["noisy"]["word_error_rate"], 10.0, "%"),
            Target("end of speech to first audio, p50", waits["all"].p50_ms, 900.0, "ms"),
            Target("end of speech to first audio, p95", waits["all"].p95_ms, 1500.0, "ms"),
            Target("speech into an answer to its silence, p50", silence.p50_ms, 200.0, "ms"),
        ],
        figures=found,
        draw=lambda figure: _draw(figure, found),
        dtype="int8",
        device="cpu",
        notes=[
            "silence and words: 500 ms of it are the silence that ends a turn",
            "the answer is begun while that silence runs: model and voice are what is left of them",
        ],
    )


def _draw(figure: Any, found: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2)
    stages = STAGES[:-1]
    bottom = np.zeros(len(found["waits_ms"]["all"]))
    order = np.argsort(found["waits_ms"]["all"])
    for stage in stages:
        heights = np.array(found["waits_ms"][stage])[order]
        left.bar(range(len(heights)), heights, bottom=bottom, label=stage)
        bottom += heights
    left.set(title="End of speech to first audio", xlabel="spoken turns, in order", ylabel="ms")
    left.legend()
    rates = [100 * found[kind]["word_error_rate"] for kind in ("clean", "noisy")]
    right.bar(("clean", f"noise at {NOISE_DB:g} dB"), rates)
    right.set(title=f"Wrong words of {found['questions']} questions", ylabel="%")
