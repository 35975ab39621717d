"""Spoken turns: from what the ear tells to the wire's events, items, and answers."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from services.common.tasks import cancel_and_wait, spawn
from services.gateway.api.realtime import server_events as server
from services.gateway.api.realtime.fields import WireError
from services.gateway.api.realtime.history import History
from services.gateway.api.realtime.items import Item, Part, new_id
from services.gateway.api.realtime.line import Line, json_of
from services.gateway.api.realtime.settings import Settings
from services.gateway.voice import heard
from services.gateway.voice.doubt import Doubt
from services.gateway.voice.loudspeaker import Loudspeaker
from services.gateway.voice.phrases import has_words, is_echo, is_short

log = logging.getLogger(__name__)

MAX_WAITING = 256  # events of the ear
WORDS_S = 30.0  # that a response waits for the words of what was said before it


class Conversing(Protocol):
    """The conversation, as what is said in it needs it."""

    @property
    def settings(self) -> Settings: ...
    @property
    def history(self) -> History: ...
    async def interrupt(self) -> None:
        """Somebody speaks."""
        ...

    async def answer(self) -> None:
        """Somebody has spoken."""
        ...

    async def expect(self, text: str) -> None:
        """Somebody may have said this, and be done; "": nothing that is to be answered."""
        ...


class SpokenTurns:
    """The turns of one microphone. `tell` is for the ear; one task acts on it, in order.

    A turn that sounds like what the client's loudspeaker plays is held back until its words are
    known: clients fall silent as soon as they are told that somebody speaks. That of others is told
    at once.
    """

    def __init__(
        self,
        conversation: Conversing,
        line: Line,
        loudspeaker: Loudspeaker | None,
        late_s: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """late_s: how late words come."""
        self._late_s = late_s
        self._clock = clock
        self._conversation = conversation
        self._line = line
        self._loudspeaker = loudspeaker
        self._held: dict[str, list[heard.Heard]] = {}  # what was told of turns that are held back
        self._into: set[str] = set()  # turns that began while the loudspeaker played
        self._alike: set[str] = set()  # … and sounded like that
        self._items: dict[str, str] = {}  # of turns that have begun, until their words are known
        self._before: dict[str, str | None] = {}  # item before each of those
        self._unknown: set[str] = set()  # those that are over
        self._waiting: asyncio.Queue[heard.Heard] = asyncio.Queue(MAX_WAITING)
        # Turns that began into what is played, and may be an echo of it, or no speech at all.
        self._doubts: dict[str, Doubt] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._known = asyncio.Event()
        self._known.set()
        self._acting = spawn(self._act_forever(), name="realtime:spoken")

    def tell(self, event: heard.Heard) -> None:
        """Note what the ear tells."""
        if isinstance(event, heard.SpeechBegan):
            self._items[event.turn] = new_id("item")
            self._compare(event.turn)
        if isinstance(event, heard.SpeechEnded) and event.turn in self._items:
            self._unknown.add(event.turn)
            self._known.clear()
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self._line.visitor.hang_up("the client does not read its events")

    def _compare(self, turn: str) -> None:
        """A turn begins: may it be our own voice?"""
        if self._loudspeaker is None:
            return
        if self._loudspeaker.is_heard():
            self._held[turn] = []
            self._alike.add(turn)
            self._into.add(turn)
        elif self._loudspeaker.is_playing:
            self._into.add(turn)

    async def acted(self) -> None:
        """Wait until the client knows what the ear has told."""
        await self._waiting.join()

    async def settled(self) -> None:
        """Wait until the words of all that was said are known. Raises WireError."""
        try:
            async with asyncio.timeout(WORDS_S):
                await self._known.wait()
        except TimeoutError:
            raise WireError("what was said is not understood yet", code="not_heard") from None

    def forget(self) -> None:
        """What is being said is not to be known."""
        self._items.clear()
        self._held.clear()
        self._into.clear()
        self._alike.clear()
        self._unknown.clear()
        self._known.set()
        self._play_on(*self._doubts)

    async def aclose(self) -> None:
        self._play_on(*self._doubts)
        await cancel_and_wait(self._acting)

    async def _act_forever(self) -> None:
        while True:
            event = await self._waiting.get()
            try:
                await self._act(event)
            except ConnectionError:
                pass  # the client has left
            except Exception:
                log.exception("unhandled error", extra={"resource": "realtime"})
                self._line.visitor.hang_up("internal error")
            finally:
                self._waiting.task_done()

    async def _act(self, event: heard.Heard) -> None:
        if event.turn not in self._items:
            return
        held = self._held.get(event.turn)
        detection = self._conversation.settings.turn_detection
        if held is None or detection is None:
            await self._pass_on(event)
            return
        held.append(event)
        match event:
            case heard.WordsHeard(text=text, final=final):
                if has_words(text) and not self._is_echo(event):
                    await self._release(event.turn)
                elif final:
                    self._end(event.turn)
            case heard.HearingFailed():
                await self._release(event.turn)

    async def _release(self, turn: str) -> None:
        """Somebody else speaks: tell what was held back."""
        for event in self._held.pop(turn):
            await self._pass_on(event)

    async def _pass_on(self, event: heard.Heard) -> None:
        item_id = self._items[event.turn]
        detection = self._conversation.settings.turn_detection
        match event:
            case heard.SpeechBegan() if detection is not None:
                at_ms = round(1000 * event.start_s)
                await self._line.emit(server.SpeechStarted(audio_start_ms=at_ms, item_id=item_id))
                if detection.interrupt_response:
                    await self._doubt(event.turn)
            case heard.SpeechEnded():
                if event.turn in self._doubts:
                    self._doubts[event.turn].ended = True
                    self._set_timer()
                if detection is not None:
                    at_ms = round(1000 * event.end_s)
                    await self._line.emit(server.SpeechStopped(audio_end_ms=at_ms, item_id=item_id))
                await self._commit(event.turn, item_id)
            case heard.WordsHeard(text=text, final=final):
                if not has_words(text) or self._is_echo(event):
                    text = ""
                elif self._loudspeaker is not None and event.turn in self._alike:
                    text = self._loudspeaker.others_words(text)
                if event.turn in self._doubts:
                    await self._settle_doubt(event, text)
                if final:
                    await self._understand(event, text)
                elif detection is not None and detection.create_response:
                    await self._conversation.expect(text if event.whole else "")
            case heard.HearingFailed():
                await self._conversation.expect("")
                self._play_on(event.turn)
                await self._line.emit(
                    server.TranscriptionFailed(
                        item_id=item_id, content_index=0, error=json_of(event.error)
                    )
                )
                self._end(event.turn)

    async def _doubt(self, turn: str) -> None:
        """Somebody seems to speak. Into what this side plays it may be an echo, as its words will
        tell; else it is an interruption."""
        playing = self._line.visitor.playing
        if playing is None or not playing.spoken():
            if self._loudspeaker is not None:
                self._loudspeaker.stop()
            await self._conversation.interrupt()
            return
        self._doubts[turn] = Doubt(turn, self._clock(), self._late_s())
        playing.pause()
        self._set_timer()

    async def _settle_doubt(self, words: heard.WordsHeard, text: str) -> None:
        """Words of a turn that may be none. text: those that are somebody's."""
        if text:
            self._doubts.clear()
            self._set_timer()
            playing = self._line.visitor.playing
            assert playing is not None
            playing.stop()
            await self._conversation.interrupt()
        elif words.final:
            self._play_on(words.turn)
        elif not has_words(words.text):  # an echo's may yet be somebody's
            self._doubts[words.turn].wordless = True
            self._set_timer()

    def _play_on(self, *turns: str) -> None:
        """These turns were no speech: nothing else may be."""
        num_doubts = len(self._doubts)
        for turn in turns:
            self._doubts.pop(turn, None)
        if num_doubts and not self._doubts:
            playing = self._line.visitor.playing
            assert playing is not None
            playing.resume()
        self._set_timer()

    def _set_timer(self) -> None:
        """Play on when every doubt has lasted too long; words that come later yet interrupt."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = [doubt.due_s for doubt in self._doubts.values()]
        times_s = [each for each in due_s if each is not None]
        playing = self._line.visitor.playing
        if playing is not None and times_s and len(times_s) == len(due_s):
            left_s = max(0.0, max(times_s) - self._clock())
            self._timer = asyncio.get_running_loop().call_later(left_s, playing.resume)

    def _is_echo(self, words: heard.WordsHeard) -> bool:
        turn, text, final = words.turn, words.text, words.final
        if self._loudspeaker is not None:
            alike = turn in self._alike
            if alike:
                others = self._loudspeaker.others_words(text)
                if others != text and not is_short(others):
                    return False  # somebody speaks into ours
            # A word of ours may be misheard.
            sure = final and not (alike and is_short(text))
            return (turn in self._into and self._loudspeaker.said(text, final=sure)) or (
                alike and self._loudspeaker.is_short_echo(words)
            )
        playing = self._line.visitor.playing
        return playing is not None and is_echo(text, playing.spoken(), final=final)

    async def _commit(self, turn: str, item_id: str) -> None:
        """The turn is over; its words are not known yet."""
        part = Part(type="input_audio")
        item = Item(id=item_id, role="user", status="in_progress", content=(part,))
        before = self._before[turn] = self._conversation.history.add(item)
        await self._line.emit(
            server.AudioCommitted(previous_item_id=before, item_id=item_id),
            server.ItemAdded(previous_item_id=before, item=item),
        )

    async def _understand(self, words: heard.WordsHeard, text: str) -> None:
        """The words of a turn that is over."""
        part = Part(type="input_audio", transcript=text)
        item = Item(id=self._items[words.turn], role="user", content=(part,))
        before = self._before.get(words.turn)
        self._conversation.history.change(item)
        seconds = max(0.0, words.length_s)
        self._end(words.turn)
        await self._line.emit(
            server.TranscriptionCompleted(
                item_id=item.id,
                content_index=0,
                transcript=text,
                usage={"type": "duration", "seconds": round(seconds, 3)},
            ),
            server.ItemDone(previous_item_id=before, item=item),
        )
        detection = self._conversation.settings.turn_detection
        if text and detection is not None and detection.create_response:
            await self._conversation.answer()
        else:
            await self._conversation.expect("")

    def _end(self, turn: str) -> None:
        self._items.pop(turn, None)
        self._held.pop(turn, None)
        self._into.discard(turn)
        self._alike.discard(turn)
        self._before.pop(turn, None)
        self._unknown.discard(turn)
        if not self._unknown:
            self._known.set()
