"""The ASR service in a thread of the test's own process, with an engine that hears what it is told
to hear. Everything but the engine is the service's own."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from services.asr.config import AsrConfig
from services.asr.engines import Segment, Words
from services.asr.hearing import Hearing
from services.asr.recording import Samples
from services.asr.servicer import AsrServicer
from services.common.resampling import HEARD_RATE
from sightline.v1 import asr_pb2_grpc


class Recogniser:
    """`words`: what is heard from now on. `address`: where it serves."""

    name = "told"
    languages = ("en",)

    def __init__(self) -> None:
        self.words = ""
        self.address = ""

    def transcribe(
        self,
        samples: Samples,
        language: str,
        prompt: str,
        unwanted: Callable[[], bool] | None = None,
    ) -> Words | None:
        length_s = len(samples) / HEARD_RATE
        return Words((Segment(self.words, 0.0, length_s),) if self.words else (), "en")


@contextmanager
def recogniser() -> Iterator[Recogniser]:
    engine, started, loop = Recogniser(), threading.Event(), asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        hearing = Hearing(lambda: engine)
        await hearing.start()
        server = grpc.aio.server()
        asr_pb2_grpc.add_AsrServiceServicer_to_server(AsrServicer(hearing, AsrConfig()), server)
        engine.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        started.set()
        await ended.wait()
        await server.stop(None)
        await hearing.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="recogniser")
    thread.start()
    try:
        assert started.wait(30)
        yield engine
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
        loop.close()
