"""An RTMP publisher for tests that says exactly what it is told to, byte by byte."""

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any, Self

from services.gateway.sources.rtmp import amf0
from services.gateway.sources.rtmp.chunks import ChunkReader, ChunkWriter, Message
from tests.eventually import PATIENCE_S


@dataclass
class RtmpPeer:
    """`async with await RtmpPeer.open(port) as peer:`; replies wait in `received`."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: list[Message] = field(default_factory=list)
    chunks: ChunkReader = field(default_factory=ChunkReader)
    chunk_writer: ChunkWriter = field(default_factory=ChunkWriter)

    @classmethod
    async def open(cls, port: int, *, handshake: bool = True) -> Self:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        peer = cls(reader, writer)
        if handshake:
            writer.write(b"\x03" + bytes(8) + os.urandom(1528))
            await reader.readexactly(1 + 1536 + 1536)
            writer.write(os.urandom(1536))
        return peer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def send(self, message: Message, chunk_stream: int = 3) -> None:
        self.writer.write(self.chunk_writer.message(chunk_stream, message))
        await self.writer.drain()

    async def call(self, name: str, transaction: float, *values: Any, stream: int = 0) -> None:
        await self.send(Message(20, stream, 0, amf0.encode(name, transaction, *values)))

    async def media(self, type_id: int, timestamp_ms: int, payload: bytes) -> None:
        await self.send(Message(type_id, 1, timestamp_ms & 0xFFFFFFFF, payload), 6)

    async def connect(self, app: str = "live") -> None:
        await self.call("connect", 1, {"app": app, "tcUrl": "rtmp://x/live"})

    async def publish(self, key: str) -> dict[str, Any]:
        """From connect to the server's word on publishing."""
        await self.connect()
        await self.call("createStream", 4, None)
        await self.call("publish", 5, None, key, "live", stream=1)
        return (await self.command("onStatus"))[3]

    async def next(self) -> Message | None:
        """The next message; None when the server has closed the connection."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.received:
                try:
                    data = await self.reader.read(65536)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self.received += self.chunks.feed(data)
        return self.received.pop(0)

    async def command(self, name: str) -> list[Any]:
        """The next command of that name, what comes before it is skipped."""
        while (message := await self.next()) is not None:
            if message.type_id == 20:
                values = amf0.decode(message.payload)
                if values[0] == name:
                    return values
        raise AssertionError(f"the server closed the connection before {name}")

    async def message(self, type_id: int) -> Message:
        while (message := await self.next()) is not None:
            if message.type_id == type_id:
                return message
        raise AssertionError(f"the server closed the connection before message {type_id}")

    async def closed(self) -> bool:
        """Whether the server ends the connection."""
        while await self.next() is not None:
            pass
        return True
