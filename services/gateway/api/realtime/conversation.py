"""One Realtime conversation: acts on what its client says, and says what happens.

It knows no sockets: events come as text, and leave as JSON objects.
"""

from collections.abc import Sequence
from dataclasses import replace

from services.gateway.api.completions.pictures import check_still, picture_of
from services.gateway.api.realtime import client_events as client
from services.gateway.api.realtime import server_events as server
from services.gateway.api.realtime.attachment import Attachment
from services.gateway.api.realtime.description import session_json
from services.gateway.api.realtime.fields import WireError, object_of
from services.gateway.api.realtime.history import History
from services.gateway.api.realtime.items import new_id
from services.gateway.api.realtime.line import Line, Visitor, json_of_event
from services.gateway.api.realtime.microphone import Microphone
from services.gateway.api.realtime.pictures import PictureStream
from services.gateway.api.realtime.responses import Responses
from services.gateway.api.realtime.settings import AudioFormat, Settings
from services.gateway.api.realtime.spoken import SpokenTurns
from services.gateway.api.realtime.voices import Voices
from services.gateway.api.speaker import Speaker
from services.gateway.auth.caller import Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.viewers import Viewers
from services.gateway.voice.loudspeaker import Loudspeaker
from sightline.errors import SightlineError
from sightline.v1 import gateway_pb2

_SECOND_NS = 1_000_000_000


class Conversation:
    """The conversation of one connection. One event loop; one coroutine calls `take`."""

    def __init__(
        self,
        config: GatewayConfig,
        sessions: Sessions,
        viewers: Viewers,
        speaker: Speaker,
        visitor: Visitor,
        *,
        model: str = "",
        by_track: bool = False,
    ) -> None:
        """model: what the client calls it. by_track: sound goes by another way than events, which
        has its own format."""
        self._by_track = by_track
        self.id = new_id("sess")
        self.settings = Settings()
        self.history = History()
        self._sessions = sessions
        self._viewers = viewers
        self._visitor = visitor
        self._model = model
        self._attachment: Attachment | None = None
        self._line = Line(visitor)
        self._voices = Voices(speaker)
        # Of a track this side is the player, and knows better what is played.
        loudspeaker = None if by_track else Loudspeaker()
        self._responses = Responses(self, self._line, self._voices, loudspeaker)
        self._pictures: PictureStream | None = None
        self._spoken = SpokenTurns(
            self, self._line, loudspeaker, late_s=lambda: self._microphone.late_s
        )
        self._microphone = Microphone(
            viewers.ears, config.turn_rules(), self._spoken.tell, self._card, loudspeaker
        )

    async def open(self, settings: Settings) -> None:
        """Greet the client. Raises what attaching to the session of `settings` may."""
        await self._adopt(settings)
        await self._line.emit(server.SessionCreated(session=await self._session_json()))

    async def take(self, text: str) -> None:
        """Act on one event; what is wrong with it is told."""
        event_id = None
        try:
            fields = object_of(text)
            event_id = client.event_id_of(fields)
            await self.act(client.event_of(fields))
        except (WireError, SightlineError) as error:
            await self._line.fail(error, event_id)

    def hear(self, pcm: bytes, sample_rate: int) -> None:
        """Hear a piece of a microphone that does not come in events. Raises what `Ear.feed` does,
        PermissionDeniedError for somebody who may not ask."""
        self._visitor.caller.check(Permission.ASK)
        self._microphone.hear(pcm, sample_rate)

    async def look(self, picture: bytes) -> None:
        """Look at a picture of a live camera, unless newer ones come first. Raises what showing it
        may, and what was wrong with those before."""
        check_still(picture)
        (await self._own_pictures()).offer(picture)

    async def tell(self, text: str) -> None:
        """Say this of its own accord, as an answer is said."""
        await self._responses.tell(text)

    def cut(self, item_id: str, content_index: int, audio_end_ms: int) -> server.ItemTruncated:
        """Keep of a spoken answer what was heard of it. What is to be told of that. Raises
        WireError."""
        self._responses.truncate(item_id, content_index, audio_end_ms)
        return server.ItemTruncated(
            item_id=item_id, content_index=content_index, audio_end_ms=audio_end_ms
        )

    @property
    def hears(self) -> bool:
        """Whether this suite hears what is said."""
        return self._microphone.configured

    async def refuse(self, error: SightlineError) -> None:
        """Say why there is no conversation."""
        await self._line.fail(error)

    async def aclose(self) -> None:
        """The client has left, which may cancel whoever calls."""
        self._responses.leave()
        if self._attachment is not None:
            self._attachment.leave()
        if self._pictures is not None:
            self._pictures.leave()
        await self._spoken.aclose()
        await self._microphone.aclose()
        await self._responses.aclose()
        if self._attachment is not None:
            await self._attachment.aclose()
        if self._pictures is not None:
            await self._pictures.aclose()

    # --- for those who act on parts of it -------------------------------------------------------

    def attached(self) -> Attachment:
        """Where it is about. Raises WireError."""
        if self._attachment is None:
            raise WireError(
                "this conversation is about no video: name a session with ?session=… or in "
                "session.update, session.sightline.session, or show pictures",
                code="no_session",
                param="session.sightline.session",
            )
        return self._attachment

    def _card(self) -> gateway_pb2.ModelCard | None:
        """The card of the model that is talked with, once there is one."""
        if self._attachment is None:
            return None
        description = self._attachment.session.worker.description
        return None if description is None else description.card

    async def settled(self) -> None:
        """Wait until what was said and shown is known. Raises WireError, UnavailableError."""
        await self._spoken.settled()
        if self._pictures is not None:
            await self._pictures.seen()

    async def interrupt(self) -> None:
        await self._responses.interrupt()

    async def answer(self) -> None:
        await self._responses.answer()

    async def expect(self, text: str) -> None:
        # Pictures that are being shown may be what is asked about.
        if self._pictures is None and self._attachment is not None:
            await self._responses.expect(text)

    # --- what the client says -----------------------------------------------------------------

    async def act(self, event: client.ClientEvent) -> None:
        """Act on one event. Raises WireError and SightlineError for what is wrong with it."""
        match event:
            case client.SessionUpdate():
                await self._adopt(self.settings.updated(event.wishes))
                await self._line.emit(server.SessionUpdated(session=await self._session_json()))
            case client.ItemCreate():
                await self._add_item(event)
            case client.ItemRetrieve():
                await self._line.emit(server.ItemRetrieved(item=self.history.get(event.item_id)))
            case client.ItemDelete():
                self.history.delete(event.item_id)
                await self._line.emit(server.ItemDeleted(item_id=event.item_id))
            case client.ItemTruncate():
                cut = self.cut(event.item_id, event.content_index, event.audio_end_ms)
                await self._line.emit(cut)
            case client.ResponseCreate():
                wish = event.wish
                if self._by_track:
                    wish = replace(wish, output_format=None)
                await self._responses.create(wish)
            case client.ResponseCancel():
                await self._responses.cancel(event.response_id)
            case client.AudioAppend():
                self._visitor.caller.check(Permission.ASK)
                self._microphone.append(event.audio, event.rate)
            case client.AudioCommit():
                await self._commit()
            case client.AudioClear():
                self._microphone.clear()
                self._spoken.forget()
                await self.expect("")
                await self._line.emit(server.AudioCleared())
            case client.WatchCreate():
                await self._watch(event)
            case client.WatchDelete():
                self.attached().unwatch(event.watch_id)
                await self._line.emit(server.WatchDeleted(watch_id=event.watch_id))

    async def _adopt(self, settings: Settings) -> None:
        """Live by other settings from here on; by none of them where their session is not there."""
        if self._by_track:
            settings = replace(settings, output_format=AudioFormat())
        if settings.stream and settings.stream != self.settings.stream:
            await self._attach(settings.stream)
        self.settings = settings
        if (ear := self._microphone.adopt(settings)) is not None:
            self._spoken.forget()
            await self.expect("")
            await ear.aclose()

    async def _attach(self, stream: str) -> None:
        """Talk about this session instead of what was before. Raises NotFoundError."""
        caller = await self._visitor.authorise(stream)
        session = await self._sessions.locate(stream, caller)
        if self._attachment is not None and self._attachment.session is session:
            return
        await self._talk_about(session, caller)
        if self._pictures is not None:
            pictures, self._pictures = self._pictures, None
            await pictures.aclose()

    async def _talk_about(self, session: AnySession, caller: Caller) -> None:
        before, self._attachment = (
            self._attachment,
            Attachment(
                self._viewers,
                session,
                caller,
                place=self._visitor.place,
                hear=self._hear,
                lost=lambda: self._visitor.hang_up("the session is not served any more"),
            ),
        )
        if before is not None:
            await before.aclose()
            await self._responses.lose("the conversation is about another session now")

    async def _show(self, addresses: Sequence[str]) -> None:
        """Make pictures frames of a session of this connection's. Raises WireError, and what
        CreateSession may answer."""
        pictures = [picture_of(address) for address in addresses]
        await (await self._own_pictures()).show(pictures)

    async def _own_pictures(self) -> PictureStream:
        if self.settings.stream:
            raise WireError(
                "this conversation is about a live session: pictures do not go there",
                code="input_image_not_supported",
            )
        if self._pictures is None:
            caller = self._visitor.caller
            self._pictures = await PictureStream.open(self._sessions, caller, self._model)
            await self._talk_about(self._pictures.session, caller)
        return self._pictures

    async def _add_item(self, event: client.ItemCreate) -> None:
        """Pictures of an item are shown, and its words stay."""
        self.history.check_new(event.item.id, event.after)
        if event.item.pictures:
            await self._show(event.item.pictures)
        item = event.item.kept()
        before = self.history.add(item, event.after)
        await self._line.emit(
            server.ItemAdded(previous_item_id=before, item=item),
            server.ItemDone(previous_item_id=before, item=item),
        )

    async def _commit(self) -> None:
        if not self._microphone.configured:
            raise WireError("this server does not hear", code="input_audio_not_supported")
        if not self._microphone.commit():
            raise WireError(
                "Error committing input audio buffer: the buffer is empty",
                code="input_audio_buffer_commit_empty",
            )
        await self._spoken.acted()

    async def _watch(self, event: client.WatchCreate) -> None:
        watch = gateway_pb2.Watch(
            watch=event.watch_id,
            condition=event.condition,
            debounce_s=event.debounce_s,
            cooldown_s=event.cooldown_s,
        )
        if event.interval_s is not None:
            watch.interval_s = event.interval_s
        attachment = self.attached()
        created = server.WatchCreated(watch_id=event.watch_id, condition=event.condition)
        await self._line.emit(created)
        attachment.watch(watch)

    # --- what the session says ----------------------------------------------------------------

    async def _hear(self, event: gateway_pb2.ServerEvent) -> None:
        """Pass on what the viewer is told."""
        match event.WhichOneof("event"):
            case "watch_event":
                fired = event.watch_event
                await self._line.emit(
                    server.WatchFired(
                        watch_id=fired.watch,
                        condition=fired.condition,
                        active=fired.active,
                        score=fired.score,
                        captured_at=fired.capture_ns / _SECOND_NS,
                    )
                )
            case "said":
                said = event.said
                await self._line.emit(
                    server.VideoSaid(
                        text=said.text,
                        started_at=said.start_ns / _SECOND_NS,
                        ended_at=said.end_ns / _SECOND_NS,
                    )
                )
            case "error":
                await self._hear_error(event.error)
            case "go_away":
                self._visitor.hang_up(event.go_away.reason)
            case _:
                await self._responses.hear(event)

    async def _hear_error(self, error: gateway_pb2.ErrorEvent) -> None:
        told = json_of_event(error)
        if error.watch:
            await self._line.emit(server.WatchFailed(watch_id=error.watch, error=told))
        elif error.turn:
            await self._responses.fail(error.turn, told)
        else:
            await self._line.emit(server.Failure(error=told))

    async def _session_json(self) -> dict[str, object]:
        said = self.settings.said
        return session_json(
            self.settings,
            self._attachment,
            session_id=self.id,
            model=str(said.get("model") or self._model),
            voice=await self._voices.shown(self.settings.voice),
            speaks=self._voices.configured,
            hears=self._microphone.configured,
        )
