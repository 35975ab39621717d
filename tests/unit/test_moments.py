"""Memory: where moments end, which questions are of the past, and what is recalled for them."""

import asyncio
import datetime
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
import pytest

from services.common.jpeg import encode_jpeg
from services.gateway.config import GatewayConfig
from services.gateway.memory.moments import Moments, Step
from services.gateway.memory.past_question import Kind, matches, past_question
from services.gateway.memory.recaller import AWAY, EVENING_NS, Recaller
from services.gateway.sessions.lease import Lease
from services.gateway.sessions.remote_session import RemoteSession
from services.gateway.workers.workers import Workers
from sightline.errors import UnavailableError
from sightline.v1 import dialogue_pb2, inference_pb2, peer_pb2
from sightline.v1 import gateway_pb2 as pb

NS = 1_000_000_000
NOW_NS = 1_800_000_000 * NS
MINUTE_NS = 60 * NS


# Where moments end


def picture(*, thing: int | None = None, light: int = 100) -> bytes:
    pixels = np.full((64, 64, 3), light, np.uint8)
    if thing is not None:
        pixels[20:40, thing : thing + 16] = (220, 30, 30)
    return pixels.tobytes()


def steps(shown: Sequence[bytes], *, longest_s: float = 15.0, fps: int = 4) -> list[Any]:
    """What is to be done, with the second in which, and of what ended whether by a change."""
    moments, found = Moments(longest_s), list[Any]()
    for number, pixels in enumerate(shown):
        capture_ns = number * NS // fps
        if not moments.wants(capture_ns):
            continue
        step = moments.see(pixels, 64, 64, capture_ns)
        if step in (Step.NOTE, Step.SAME):
            found.append((step.value, number / fps))
        elif step is Step.END:
            assert moments.ended is not None
            found.append(("end", moments.ended.end_ns / NS, moments.ended.changed))
    return found


def test_a_still_picture_is_one_moment_after_the_other() -> None:
    said = steps([picture()] * 4 * 31)
    assert said == [
        ("note", 1.0),
        ("end", 15.0, False),
        ("same", 16.0),
        ("end", 30.0, False),
    ]
    later = [each for each in steps([picture()] * 4 * 80) if each[0] == "note"]
    assert later == [("note", 1.0), ("note", 61.0)], "small things are not seen to change"


def test_a_change_ends_a_moment_when_it_began_and_not_before_it_is_described() -> None:
    said = steps([picture()] * 4 * 8 + [picture(thing=20)] * 4 * 8)
    assert said[:3] == [("note", 1.0), ("end", 8.0, True), ("note", 9.5)]


def test_a_flicker_and_another_exposure_are_no_change() -> None:
    flicker = [picture()] * 4 * 6 + [picture(thing=20)] * 2 + [picture()] * 4 * 6
    assert [each for each in steps(flicker) if each[0] == "end"] == []
    brighter = [picture()] * 4 * 6 + [picture(light=140)] * 4 * 6
    assert [each for each in steps(brighter) if each[0] == "end"] == []


def test_constant_change_ends_no_moment_early() -> None:
    moving = [picture(thing=number % 40) for number in range(4 * 60)]
    ends = [each[1] for each in steps(moving) if each[0] == "end"]
    assert len(ends) >= 4
    assert min(np.diff([0.0, *ends])) >= 4.0


# Which questions are of the past


@pytest.mark.parametrize(
    "text",
    [
        "What is in the scene?",
        "What was held up before the phone?",
        "What came last?",
        "What has changed?",
        "Is anything prohibited shown?",
        "how much was the phone before",
    ],
)
def test_questions_of_the_window_are_none_of_the_past(text: str) -> None:
    assert past_question(text, NOW_NS) is None


@pytest.mark.parametrize(
    ("text", "kind", "age_s", "present"),
    [
        ("What was in the scene ten minutes ago?", Kind.AT, 600, "what is in the scene"),
        ("An hour ago, was there a red cap?", Kind.AT, 3600, "is there a red cap"),
        ("what were the prices half an hour ago", Kind.AT, 1800, "what are the prices"),
        ("What happened 90 seconds ago?", Kind.AT, 90, ""),
        ("How many things were there an hour and a half ago?", Kind.AT, 5400, None),
    ],
)
def test_times_are_read_and_questions_put_into_the_present(
    text: str, kind: Kind, age_s: float, present: str | None
) -> None:
    asked = past_question(text, NOW_NS)
    assert asked is not None
    assert asked.kind is kind
    assert (NOW_NS - asked.at_ns) / NS == age_s
    if present is not None:
        assert asked.present == present


@pytest.mark.parametrize(
    ("text", "kind", "age_s", "words"),
    [
        ("wot happend like 10 mins back??", Kind.AT, 600, ()),
        ("10m ago - what was there", Kind.AT, 600, ()),
        ("what happened 10,5 minutes ago", Kind.AT, 630, ()),
        ("what happened an hour or so ago", Kind.AT, 3600, ()),
        ("what happened a week ago", Kind.AT, 604_800, ()),
        ("what did i miss in last ten mins", Kind.SPAN, 300, ()),
        ("What did she say about the price ten minutes ago?", Kind.AT, 600, ("price",)),
        ("Was ist vor zehn Minuten passiert?", Kind.AT, 600, ()),
        ("vor ca. 10 min, was war da los?", Kind.AT, 600, ()),
        ("was war vor einer halben Stunde im Bild", Kind.AT, 1800, ()),
        ("was ist in den letzten fünf Minuten passiert", Kind.SPAN, 150, ()),
        ("was hat sie vor 2 Stunden über den Preis gesagt", Kind.AT, 7200, ("prei",)),
        ("Wann war das rote Hemd zu sehen?", Kind.WHEN, None, ("rote", "hemd")),
        ("red shirt, when?", Kind.WHEN, None, ("red", "shirt")),
        ("when red shirt come", Kind.WHEN, None, ("red", "shirt")),
        ("When did the man with the hat show?", Kind.WHEN, None, ("man", "hat")),
        ("what did I miss?", Kind.SPAN, None, ()),
        ("what did I miss in the last hour and a half?", Kind.SPAN, 2700, ()),
        ("what was there an hour and ten minutes ago", Kind.AT, 4200, ()),
        ("what was there 1h30m ago", Kind.AT, 5400, ()),
        ("what was there 2 hours, 5 minutes and 10 seconds ago?", Kind.AT, 7510, ()),
        ("what was there twenty-five minutes ago", Kind.AT, 1500, ()),
        ("what was there seventy five seconds ago", Kind.AT, 75, ()),
        ("what was there two and a half hours ago", Kind.AT, 9000, ()),
        ("what was there three quarters of an hour ago", Kind.AT, 2700, ()),
        ("what was there five or ten minutes ago", Kind.AT, 600, ()),
        ("what was there ~5-10 minutes ago", Kind.AT, 600, ()),
        ("what was there a minute or two ago", Kind.AT, 60, ()),
        ("what was there at 7 am?", Kind.AT, 3600, ()),
        ("what was there at 5 p.m.", Kind.AT, 15 * 3600, ()),
        ("what was there at midnight", Kind.AT, 8 * 3600, ()),
        ("what was there yesterday at 07:00", Kind.AT, 25 * 3600, ()),
        ("what was there last night?", Kind.SPAN, 8 * 3600, ()),
        ("what happened yesterday at 5?", Kind.AT, 27 * 3600, ()),
        ("what was there at 17 yesterday?", Kind.AT, 15 * 3600, ()),
        ("what happened yesterday afternoon at 5", Kind.AT, 15 * 3600, ()),
        ("what was there last night at 11", Kind.AT, 9 * 3600, ()),
        ("what was there last night at 2", Kind.AT, 6 * 3600, ()),
        ("what did I miss yesterday evening?", Kind.SPAN, 11 * 3600, ()),
        ("was war gestern Abend um 8 Uhr da", Kind.AT, 12 * 3600, ()),
        ("what was there the day before yesterday", Kind.SPAN, 44 * 3600, ()),
        ("was war vor einer Stunde und zehn Minuten zu sehen", Kind.AT, 4200, ()),
        ("was war vor fünfundzwanzig Minuten da", Kind.AT, 1500, ()),
        ("was war vor zweieinhalb Stunden da", Kind.AT, 9000, ()),
        ("was war vor einer Viertelstunde da", Kind.AT, 900, ()),
        ("was war zehn Minuten früher da", Kind.AT, 600, ()),
        ("was war gestern um 7 Uhr da", Kind.AT, 25 * 3600, ()),
        (f"what was there {'9' * 400} minutes ago", Kind.AT, None, ()),
    ],
)
def test_odd_and_german_phrasings_are_understood(
    text: str, kind: Kind, age_s: float | None, words: tuple[str, ...]
) -> None:
    asked = past_question(text, NOW_NS)
    assert asked is not None
    assert (asked.kind, asked.words) == (kind, words)
    if age_s is not None:
        assert (NOW_NS - asked.at_ns) / NS == age_s


@pytest.mark.parametrize(
    "text",
    [
        *("When will the red shirt come?", "I am back", "Was ist das?"),
        *("qué pasó hace diez minutos", "What will be there at 18:00?", "who will come today?"),
        *("what is going to happen this evening", "Was wird heute um 18 Uhr da sein?"),
        *("what was there today at 17:00?", "what happened at 5 this afternoon"),
    ],
)
def test_what_is_not_of_the_past_or_not_understood_goes_to_the_model(text: str) -> None:
    assert past_question(text, NOW_NS) is None


@pytest.mark.parametrize("now_ns", [0, 1, 5 * NS, 2**63 - 1])
def test_no_time_is_before_all_times(now_ns: int) -> None:
    """A camera without a clock begins at 0."""
    for text in ("what was there yesterday", "what happened last night", "what was at 14:02"):
        asked = past_question(text, now_ns)
        assert asked is None or 0 <= asked.from_ns <= asked.to_ns


def test_whatever_is_of_the_past_by_some_clock_is_looked_up() -> None:
    for text in ("what was there today at 23:59", "what happened this evening", "what did I miss"):
        assert past_question(text, EVENING_NS) is not None


def test_a_time_of_day_is_the_last_one() -> None:
    asked = past_question("what was there at 07:59?", NOW_NS)  # it is 08:00:00
    assert asked is not None
    assert (NOW_NS - asked.at_ns) / NS == 60
    asked = past_question("what was there at 8:01 pm?", NOW_NS)
    assert asked is not None
    assert (NOW_NS - asked.at_ns) / NS == 12 * 3600 - 60


def test_words_match_within_one_thing() -> None:
    line = "a red circle and a blue square"
    assert matches(line, ("red", "circle"))
    assert not matches(line, ("blue", "circle"))
    asked = past_question("When did the blue squares show?", NOW_NS)
    assert asked is not None
    assert asked.kind is Kind.WHEN
    assert matches(line, asked.words)


def test_a_camera_is_a_thing_and_on_camera_is_none() -> None:
    asked = past_question("When did the camera show?", NOW_NS)
    assert asked is not None
    assert asked.words == ("camera",)
    asked = past_question("When did the red cap come into the picture on camera?", NOW_NS)
    assert asked is not None
    assert asked.words == ("red", "cap")


# What is recalled


class Journal:
    """Moments, the newest first, as the store gives them."""

    def __init__(self, moments: list[dialogue_pb2.Moment]) -> None:
        self.moments = moments
        self.away = False
        self.calls = 0
        self.most = 5000  # of one reply

    async def read(self, request: Any) -> dialogue_pb2.ListMomentsResponse:
        self.calls += 1
        if self.away:
            raise UnavailableError("away")
        found = [
            each
            for each in self.moments
            if (not request.id or each.id == request.id)
            and each.end_ns > request.from_ns
            and (not request.to_ns or each.start_ns < request.to_ns)
        ]
        if request.before:
            found = found[[each.id for each in found].index(request.before) + 1 :]
        few = found[: min(request.limit or 100, self.most)]
        reply = dialogue_pb2.ListMomentsResponse(moments=few, more=len(few) < len(found))
        if not request.pictures:
            for moment in reply.moments:
                moment.ClearField("pictures")
        return reply


class Session:
    id = "s"

    def __init__(self, memory: pb.MemoryKind = pb.MEMORY_KIND_PICTURES) -> None:
        self.memory = memory

    def message(self) -> pb.Session:
        stats = pb.SessionStats(last_capture_ns=NOW_NS)
        sizes = {"frame_width": 32, "frame_height": 32}
        return pb.Session(id="s", memory=self.memory, window=30, fps=2, stats=stats, **sizes)


def moment(age_s: int, line: str, pictures: Sequence[bytes] = ()) -> dialogue_pb2.Moment:
    start_ns = NOW_NS - age_s * NS
    return dialogue_pb2.Moment(
        id=f"{start_ns}-0",
        start_ns=start_ns,
        end_ns=start_ns + 10 * NS,
        line=line,
        pictures=pictures,
        num_pictures=len(pictures),
    )


def recalled(
    text: str,
    journal: Journal,
    session: Session | None = None,
    zone: datetime.tzinfo = datetime.UTC,
) -> tuple[inference_pb2.AnswerRequest, Any]:
    request = inference_pb2.AnswerRequest(session_id="s", question=pb.Question(text=text))
    recaller = Recaller(journal, zone)  # type: ignore[arg-type]
    return request, asyncio.run(recaller.recall(session or Session(), request))


def red_jpeg() -> bytes:
    frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), (255, 0, 0), np.uint8), "rgb24")
    return encode_jpeg(frame.reformat(format="yuvj420p", dst_color_range="JPEG"))


STORY = [
    moment(30, "a blue square"),
    moment(120, "a red circle and a blue square"),
    moment(135, "a red circle"),
    moment(150, "a blue square"),
    moment(600, "a green star", [red_jpeg()]),
    moment(900, "a red circle"),
]


def test_a_question_of_the_present_is_sent_as_it_came_and_nothing_is_read() -> None:
    journal = Journal(STORY)
    window = "what was there 3 seconds ago", "what changed in the last 5 seconds"
    for text in ("what is in the scene", "what came last", *window):
        request, found = recalled(text, journal)
        assert not request.HasField("recall")
        assert not found.recollections
    request, _ = recalled("what was there ten minutes ago", journal, Session(pb.MEMORY_KIND_OFF))
    assert not request.HasField("recall")
    assert journal.calls == 0


def test_when_something_showed_is_answered_with_the_moment_it_came() -> None:
    request, found = recalled("When did the red circle show?", Journal(STORY))
    assert [each.start_ns for each in found.recollections] == [
        NOW_NS - 135 * NS,
        NOW_NS - 900 * NS,
    ]
    assert "2 minutes ago" in request.recall.answer
    assert "a red circle" in request.recall.answer
    first, _ = recalled("When did the red circle first show?", Journal(STORY))
    assert "15 minutes ago" in first.recall.answer


def test_a_recollection_names_the_time_of_those_who_ask() -> None:
    summer = datetime.timezone(datetime.timedelta(hours=2), "CEST")
    request, _ = recalled("what was there at 09:50?", Journal(STORY), zone=summer)  # 10:00 there
    assert [each.clock for each in request.recall.moments] == ["09:50:00 CEST"]
    assert "(09:50:00 CEST): a green star" in request.recall.answer


def test_the_first_time_is_found_behind_whatever_was_said_since() -> None:
    journal = Journal(STORY)
    journal.most = 2  # its moments are as long as may be
    request, found = recalled("When did the red circle first show?", journal)
    assert found.recollections[0].start_ns == NOW_NS - 900 * NS
    assert request.recall.answer.startswith("From memory, 15 minutes ago")


def test_a_time_brings_its_picture_as_a_frame_and_the_question_of_then() -> None:
    request, found = recalled("What was in the scene ten minutes ago?", Journal(STORY))
    (shown,) = request.recall.moments
    assert shown.line == "a green star"
    assert (shown.width, shown.height, len(shown.pixels)) == (32, 32, 32 * 32 * 3)
    assert np.frombuffer(shown.pixels, np.uint8).reshape(-1, 3).mean(axis=0)[0] > 240
    assert request.recall.question == "what is in the scene"
    assert found.recollections[0].picture


def test_what_is_not_kept_is_said_not_to_be() -> None:
    request, found = recalled("what was there two hours ago?", Journal(STORY))
    assert request.recall.answer == "I remember nothing of that."
    assert not found.recollections
    request, _ = recalled("when did the zebra show?", Journal(STORY))
    assert not request.recall.moments, "the model may know"
    assert not request.recall.answer


def test_what_was_said_is_found_around_its_time() -> None:
    journal = Journal([*STORY])
    for age_s, said in ((480, "this one is new"), (690, "the price is nine euros today")):
        journal.moments.append(moment(age_s, "a hand"))
        journal.moments[-1].heard = said
    request, found = recalled("What did she say about the price ten minutes ago?", journal)
    assert [each.heard for each in found.recollections] == ["the price is nine euros today"]
    assert 'somebody said "the price is nine euros today"' in request.recall.answer
    assert "12 minutes ago" in request.recall.answer, "as it was, and not as it was asked"
    request, found = recalled("when did she mention euros", journal)
    assert len(found.recollections) == 1


def test_a_moment_of_which_nothing_was_noted_is_no_absence() -> None:
    seen = [moment(100, "a red circle"), moment(110, ""), moment(120, "a red circle")]
    _, found = recalled("When did the red circle show?", Journal([*seen, moment(130, "a")]))
    assert [each.start_ns for each in found.recollections] == [NOW_NS - 120 * NS]


def test_what_happened_is_told_in_its_order() -> None:
    request, _ = recalled("what happened in the last 5 minutes?", Journal(STORY))
    said = request.recall.answer
    assert said.index("a red circle") < said.index("a red circle and a blue square")
    assert "green star" not in said
    assert len(request.recall.moments) <= 4


def test_a_store_that_is_away_is_told_and_the_question_goes_on() -> None:
    journal = Journal(STORY)
    journal.away = True
    request, found = recalled("what was there ten minutes ago", journal)
    assert found.degraded == [AWAY]
    assert not request.HasField("recall")


async def test_another_gateway_recalls_what_the_owner_of_a_session_wrote() -> None:
    async def refresh(remote: RemoteSession) -> None:
        pass

    record = peer_pb2.SessionRecord(session=Session().message())
    lease = Lease("s", "one", "127.0.0.1:1", fence=1, left_s=3.0, record=record)
    remote = RemoteSession(lease, Workers(), GatewayConfig(), refresh)
    recaller = Recaller(Journal(STORY))  # type: ignore[arg-type]
    question = pb.Question(text="When did the red circle show?")
    request = inference_pb2.AnswerRequest(session_id="s", question=question)
    found = await recaller.recall(remote, request)
    assert found.recollections[0].start_ns == NOW_NS - 135 * NS
    question.text = "How much is the green star?"
    request = inference_pb2.AnswerRequest(session_id="s", question=question)
    found = await recaller.look_back(remote, request, "there is no star")
    assert [each.line for each in found.recollections] == ["a green star"]
    assert request.recall.said == "there is no star"
