"""A thousand askers in a process of their own, so that frames are not late for want of a client.

`python -m benchmarks.crowd DOOR ADDRESS SESSION ASKERS` connects, prints "ready", and for every
line that it reads asks that many questions at once of a worker or a gateway (DOOR), then prints
what became of them as JSON. Ends with its standard input. It is nice to what it measures.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any, Self

import grpc

from benchmarks import REPOSITORY
from benchmarks.viewers import QUESTIONS
from sightline.v1 import gateway_pb2, gateway_pb2_grpc, inference_pb2, inference_pb2_grpc

TIMEOUT_S = 110.0
_NICE = 10

Ask = Callable[[str], Awaitable[gateway_pb2.AnswerDone]]


@dataclass(slots=True)
class Answers:
    """Answers of a crowd: what became of its questions. `places`: in which order those asked first
    to last were answered."""

    seconds: float = 0.0
    answered: int = 0
    degraded: int = 0
    first_s: float = 0.0
    places: list[int] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)


class Crowd:
    """The process, seen from the benchmark."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._write, self._read = process.stdin, process.stdout

    @classmethod
    @asynccontextmanager
    async def gathered(
        cls, door: str, address: str, session: str, askers: int
    ) -> AsyncIterator[Self]:
        """Askers at the door of a "worker" or a "gateway", ready to ask."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.crowd", door, address, session, str(askers)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=REPOSITORY,
            limit=2**20,
        )
        try:
            crowd = cls(process)
            await crowd._line()
            yield crowd
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def ask(self) -> Answers:
        """All at once; returns when everybody has an answer or was refused."""
        self._write.write(b"ask\n")
        return Answers(**json.loads(await self._line()))

    async def _line(self) -> bytes:
        if not (line := await self._read.readline()):
            raise RuntimeError("the askers ended: see above")
        return line


async def _burst(ask: Ask, askers: int) -> Answers:
    found, refusals = Answers(), Counter[str]()
    ended: list[int] = []
    started_s = time.monotonic()

    async def one(number: int, text: str) -> None:
        try:
            done = await ask(text)
        except grpc.aio.AioRpcError as error:
            refusals[f"{error.code().name}: {error.details()}"] += 1
            return
        if done.finish_reason in (
            gateway_pb2.FINISH_REASON_STOP,
            gateway_pb2.FINISH_REASON_LENGTH,
        ):
            ended.append(number)
            found.first_s = found.first_s or time.monotonic() - started_s
        found.degraded += bool(done.degraded)

    texts = cycle(QUESTIONS)
    await asyncio.gather(*(one(number, next(texts)) for number in range(askers)))
    places = {number: place for place, number in enumerate(ended)}
    found.seconds, found.answered = time.monotonic() - started_s, len(ended)
    found.places, found.refusals = [places[number] for number in sorted(places)], dict(refusals)
    return found


def _of_worker(channel: grpc.aio.Channel, session: str) -> Ask:
    stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)

    async def ask(text: str) -> gateway_pb2.AnswerDone:
        question = gateway_pb2.Question(turn="bench", text=text)
        request = inference_pb2.AnswerRequest(session_id=session, question=question)
        done = gateway_pb2.AnswerDone()
        async for event in stub.Answer(request, timeout=TIMEOUT_S):
            done = event.done
        return done

    return ask


def _of_gateway(channel: grpc.aio.Channel, session: str) -> Ask:
    stub: Any = gateway_pb2_grpc.SightlineServiceStub(channel)

    async def ask(text: str) -> gateway_pb2.AnswerDone:
        request = gateway_pb2.AskRequest(session=session, question=gateway_pb2.Question(text=text))
        return (await stub.Ask(request, timeout=TIMEOUT_S)).answer  # type: ignore[no-any-return]

    return ask


DOORS = {"worker": _of_worker, "gateway": _of_gateway}


async def _main(door: str, address: str, session: str, askers: int) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        ask = DOORS[door](channel, session)
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(asdict(await _burst(ask, askers))), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("door", choices=DOORS)
    parser.add_argument("address")
    parser.add_argument("session")
    parser.add_argument("askers", type=int)
    asked = parser.parse_args()
    os.nice(_NICE)
    asyncio.run(_main(asked.door, asked.address, asked.session, asked.askers))
