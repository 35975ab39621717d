"""An RTMP server that one player reads a clip from."""

import contextlib
import socket
import threading
from pathlib import Path
from typing import Any

import av

from services.gateway.sources.rtmp import handshake, messages
from services.gateway.sources.rtmp.chunks import ChunkReader, ChunkWriter, Message


class RtmpPlayerServer:
    """`connected`: the properties of the player's `connect`; `played`: the stream it asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self.port = self._listener.getsockname()[1]
        self.connected: dict[str, Any] = {}
        self.played = ""
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        stream.read(1)
        connection.sendall(handshake.reply(stream.read(handshake.PACKET_BYTES)))
        stream.read(handshake.PACKET_BYTES)
        reader, writer = ChunkReader(), ChunkWriter()

        def send(message: Message, chunk_stream: int = 3) -> None:
            connection.sendall(writer.message(chunk_stream, message))

        # Of the same buffer: what came with the handshake's end is in it.
        while data := stream.read1(65536):
            for message in reader.feed(data):
                if message.type_id != messages.COMMAND_AMF0:
                    continue
                command = messages.parse_command(message)
                if command.name == "connect":
                    self.connected = command.object
                    info = {"level": "status", "code": "NetConnection.Connect.Success"}
                    send(messages.result(command.transaction, {}, info))
                elif command.name == "createStream":
                    send(messages.result(command.transaction, None, 1))
                elif command.name == "play":
                    self.played = command.argument(0)
                    send(messages.user_control(messages.STREAM_BEGIN, (1).to_bytes(4)), 2)
                    send(messages.status(1, "status", "NetStream.Play.Start", "playing"), 5)
                    for message in self._media():
                        send(message, 6)

    def _media(self) -> list[Message]:
        with av.open(str(self._path)) as file:
            video = file.streams.video[0]
            header = b"\x17\0\0\0\0" + (video.codec_context.extradata or b"")
            found = [Message(messages.VIDEO, 1, 0, header)]
            for packet in file.demux(video):
                if packet.dts is not None and packet.pts is not None:
                    first = b"\x17" if packet.is_keyframe else b"\x27"
                    at_ms = round(packet.dts * video.time_base * 1000)
                    ahead_ms = round((packet.pts - packet.dts) * video.time_base * 1000)
                    payload = first + b"\x01" + ahead_ms.to_bytes(3) + bytes(packet)
                    found.append(Message(messages.VIDEO, 1, max(0, at_ms), payload))
            return found
