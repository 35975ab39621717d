"""The `sightline talk` command: a conversation by this machine's microphone and loudspeaker."""

import argparse
import asyncio
import contextlib
import sys
import threading
from types import ModuleType

from sightline import aio
from sightline.errors import InvalidArgumentError
from sightline.player import Player
from sightline.printing import print_json
from sightline.sound_devices import (
    HEARD_RATE,
    PIECE_S,
    SoundFile,
    Speaker,
    microphone,
    speaker,
)
from sightline.talk import Talk, TalkEvent, TalkKind

__all__ = ["talk"]

QUIET_S = 4.0  # after a file's end, until nothing more is waited for


async def talk(client: aio.Client, options: argparse.Namespace) -> int:
    av = _av()
    session = await client.session(options.session)
    heard = microphone(options.microphone, av)
    played = speaker(options.speaker, av)
    try:
        async with session.talk(
            conversation=options.conversation or "",
            speech=played is not None,
            voice=options.voice,
        ) as line:
            await _converse(line, heard, played, options.json)
    finally:
        heard.close()
        if played is not None:
            played.close()
    return 0


def _av() -> ModuleType:
    try:
        import av
    except ImportError:
        raise InvalidArgumentError("talking needs PyAV: pip install av") from None
    return av


async def _converse(line: Talk, heard: SoundFile, played: Speaker | None, as_json: bool) -> None:
    player, show = Player(line), _Screen(as_json)
    over = asyncio.Event()
    stopping = threading.Event()
    loop = asyncio.get_running_loop()

    def listen() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            for piece in heard.pieces():
                if stopping.is_set():
                    return
                loop.call_soon_threadsafe(line.hear, piece, HEARD_RATE)
            loop.call_soon_threadsafe(over.set)

    async def play() -> None:
        if played is None:
            return
        while True:
            if player.sample_rate and not player.idle:
                pcm = player.next(PIECE_S)
                await asyncio.to_thread(played.write, pcm, player.sample_rate)
            else:
                await asyncio.sleep(PIECE_S / 2)

    async def follow() -> None:
        async for event in line:
            player.take(event)
            show.show(event)

    async def wait_over() -> None:
        """A file has been said, and what came of it is over: silence follows until then."""
        await over.wait()
        quiet_s = 0.0
        while quiet_s < QUIET_S:
            line.hear(bytes(2 * round(PIECE_S * HEARD_RATE)), HEARD_RATE)
            await asyncio.sleep(PIECE_S)
            quiet_s = 0.0 if show.answering or not player.idle else quiet_s + PIECE_S

    threading.Thread(target=listen, name="microphone", daemon=True).start()
    if not as_json and heard.live:
        print("Talk; Ctrl-C ends.", file=sys.stderr)
    tasks = [asyncio.create_task(each()) for each in (follow, play, wait_over)]
    if played is None:
        tasks.pop(1).cancel()
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        stopping.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Screen:
    """What is said, on a terminal or as lines of JSON."""

    def __init__(self, as_json: bool) -> None:
        self.answering = False  # a question is asked, or its answer comes
        self._as_json = as_json
        self._partial = 0  # characters of a line that is written over
        self._rewrites = sys.stdout.isatty()

    def show(self, event: TalkEvent) -> None:
        match event.kind:
            case TalkKind.HEARD:
                self.answering = event.final and bool(event.text)
            case TalkKind.ANSWER | TalkKind.TEXT:
                self.answering = True
            case TalkKind.DONE | TalkKind.FAILED:
                self.answering = False
        if self._as_json:
            if event.kind is not TalkKind.SOUND:
                said = {"kind": str(event.kind), "turn": event.turn, "text": event.text}
                print_json(said | ({"final": True} if event.final else {}))
            return
        match event.kind:
            case TalkKind.HEARD if not event.final and not self._rewrites:
                pass  # in a file nothing is written over
            case TalkKind.HEARD if event.text or self._partial:
                end = "\n" if event.final and event.text else "\r"
                text = f"> {event.text}" if event.text else ""
                print(text.ljust(self._partial), end=end, flush=True)
                self._partial = 0 if event.final else len(text)
            case TalkKind.TEXT:
                print(event.text, end="", flush=True)
            case TalkKind.DONE:
                print(flush=True)
            case TalkKind.STOP:
                print(" …", flush=True)
            case TalkKind.FAILED:
                print(f"sightline: {event.text}", file=sys.stderr)
