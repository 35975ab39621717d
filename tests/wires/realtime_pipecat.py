"""Pipecat's pipeline on the Realtime wire: URL SESSION CONDITION [WAV], what came as JSON."""

import asyncio
import json
import sys
import wave
from typing import Any

from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    LLMFullResponseEndFrame,
    LLMRunFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner

PATIENCE_S = 60
PIECE = 2400  # samples of 24 kHz


class Watching(events.ClientEvent):
    """A standing question, which Pipecat has no event for."""

    type: str = "sightline.watch.create"
    watch: dict[str, Any]


class Ear(FrameProcessor):
    """Hears what the service says, and knows when an answer is over."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.audio = 0
        self.errors: list[str] = []
        self.over: asyncio.Queue[str] = asyncio.Queue()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame):
            self.words.append(frame.text)
        elif isinstance(frame, TTSAudioRawFrame):
            self.audio += len(frame.audio)
        elif isinstance(frame, ErrorFrame):
            self.errors.append(frame.error)
        elif isinstance(frame, LLMFullResponseEndFrame):
            self.over.put_nowait("".join(self.words))
            self.words.clear()
        await self.push_frame(frame, direction)


async def speak(worker: PipelineWorker, path: str) -> None:
    """Say what a recording says, as fast as a person, and be silent then."""
    with wave.open(path) as recording:
        spoken = recording.readframes(recording.getnframes())
    silence = bytes(2 * PIECE)
    pieces = [spoken[at : at + 2 * PIECE] for at in range(0, len(spoken), 2 * PIECE)]
    for piece in [silence] * 3 + pieces + [silence] * 15:
        await worker.queue_frames([InputAudioRawFrame(piece, 24_000, 1)])
        await asyncio.sleep(0.1)


async def converse(url: str, session: str, condition: str, wav: str = "") -> dict[str, Any]:
    fired: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    heard: list[str] = []
    parse = events.parse_server_event

    def parsed(text: str) -> Any:
        """Pipecat leaves out events that it does not know."""
        if (event := json.loads(text))["type"] == "sightline.watch.event":
            fired.put_nowait(event)
        if event["type"].endswith("input_audio_transcription.completed"):
            heard.append(event["transcript"])
        return parse(text)

    events.parse_server_event = parsed
    address = url.replace("http", "ws", 1)
    service = OpenAIRealtimeLLMService(
        api_key="nobody asks", base_url=f"{address}v1/realtime?session={session}"
    )
    pair = LLMContextAggregatorPair(LLMContext([{"role": "user", "content": "Is there a circle?"}]))
    ear = Ear()
    worker = PipelineWorker(Pipeline([pair.user(), service, ear, pair.assistant()]))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await worker.queue_frames([LLMRunFrame()])
    told: dict[str, Any] = {"answer": await ear.over.get(), "audio": ear.audio}

    await service.send_client_event(events.ResponseCancelEvent())  # of nothing
    watch = {"id": "w1", "condition": condition, "interval_s": 0.2}
    await service.send_client_event(Watching(watch=watch))
    event = await fired.get()
    told["watch"] = {"id": event["watch_id"], "active": event["active"]}

    content = [events.ItemContent(type="input_text", text="What is happening?")]
    said = events.ConversationItem(type="message", role="user", content=content)
    await service.send_client_event(events.ConversationItemCreateEvent(item=said))
    await service.send_client_event(events.ResponseCreateEvent())
    told["next answer"] = await ear.over.get()

    if wav:
        speaking = asyncio.create_task(speak(worker, wav))
        told["answer to it"] = await ear.over.get()
        told["heard"] = heard
        await speaking
    told["errors"] = ear.errors
    await worker.cancel()
    await running
    return told


async def main() -> None:
    async with asyncio.timeout(PATIENCE_S):
        print(json.dumps(await converse(*sys.argv[1:])))


asyncio.run(main())
