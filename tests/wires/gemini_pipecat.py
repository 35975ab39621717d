"""Pipecat's pipeline on the Gemini Live wire: URL SESSION WAV, what came as JSON. It believes the
authority in SSL_CERT_FILE."""

import asyncio
import json
import sys
import wave
from typing import Any

from google.genai.types import HttpOptions
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    LLMFullResponseEndFrame,
    LLMRunFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.google.gemini_live.llm import GeminiLiveLLMService
from pipecat.workers.runner import WorkerRunner

PATIENCE_S = 60


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
        if isinstance(frame, TTSTextFrame):
            self.words.append(frame.text)
        elif isinstance(frame, TTSAudioRawFrame):
            self.audio += len(frame.audio)
        elif isinstance(frame, ErrorFrame):
            self.errors.append(frame.error)
        elif isinstance(frame, LLMFullResponseEndFrame):
            self.over.put_nowait("".join(self.words))
            self.words.clear()
        await self.push_frame(frame, direction)


class Mouth(FrameProcessor):
    """Notes what was heard of the user, which goes up the pipeline."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.heard.append(frame.text)
        await self.push_frame(frame, direction)


async def converse(url: str, session: str, wav: str) -> dict[str, Any]:
    service = GeminiLiveLLMService(
        api_key="nobody asks",
        http_options=HttpOptions(base_url=url),
        settings=GeminiLiveLLMService.Settings(model=f"models/sightline://{session}"),
    )
    context = LLMContext([{"role": "user", "content": "What is there?"}])
    pair = LLMContextAggregatorPair(context)
    ear, mouth = Ear(), Mouth()
    worker = PipelineWorker(Pipeline([pair.user(), mouth, service, ear, pair.assistant()]))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await worker.queue_frames([LLMRunFrame()])
    told: dict[str, Any] = {"answer": await ear.over.get(), "audio": ear.audio}
    with wave.open(wav) as recording:
        rate = recording.getframerate()
        spoken = recording.readframes(recording.getnframes()) + bytes(2 * rate)
    for at in range(0, len(spoken), rate // 5):
        await worker.queue_frames([InputAudioRawFrame(spoken[at : at + rate // 5], rate, 1)])
        await asyncio.sleep(0.1)
    told["answer to it"] = await ear.over.get()
    told["heard"], told["errors"] = mouth.heard, ear.errors
    await worker.cancel()
    await running
    return told


async def main() -> None:
    async with asyncio.timeout(PATIENCE_S):
        print(json.dumps(await converse(*sys.argv[1:])))


asyncio.run(main())
