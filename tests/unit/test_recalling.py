"""Remembered pictures in a branch, and lines that are written in the background."""

import asyncio

import numpy as np
import pytest

from services.inference_worker.engine.jobs import FinishReason, Generation, PastPicture
from services.inference_worker.serving.answering import Answerer
from services.inference_worker.serving.recalling import of_now, recalled
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2, inference_pb2
from tests.unit.tiny import Bench, Recorder, random_picture, tiny_model

QUESTION = [1, 10, 11, 12, 7]
NS = 1_000_000_000


def opened(*, frames: int = 6, window: int = 4, **options: int) -> Bench:
    model = tiny_model(window=window)
    model.stop_tokens = frozenset()
    bench = Bench(model, **options)  # type: ignore[arg-type]
    bench.open("s")
    rng = np.random.default_rng(1)
    for number in range(frames):
        bench.push("s", random_picture(rng), number)
    bench.run()
    return bench


def past(bench: Bench, *seeds: int) -> tuple[PastPicture, ...]:
    layout = bench.model.layout(64, 64)
    pictures = [random_picture(np.random.default_rng(seed)) for seed in seeds]
    return tuple(PastPicture(picture.tobytes(), layout) for picture in pictures)


def ask(bench: Bench, pictures: tuple[PastPicture, ...] = (), *, alone: bool = False) -> Recorder:
    recorder = Recorder()
    job = Generation(list(QUESTION), 6, recorder, pictures=pictures, alone=alone)
    bench.engine.submit_branch("s", job)
    return recorder


def last_logits(bench: Bench, pictures: tuple[PastPicture, ...] = (), *, alone: bool = False):  # type: ignore[no-untyped-def]
    recorder = Recorder()
    bench.engine.submit_branch(
        "s", Generation(list(QUESTION), 1, recorder, pictures=pictures, alone=alone)
    )
    bench.run()
    assert recorder.reason is FinishReason.LENGTH
    bench.cache.check_integrity()
    return bench.runner.logits[-1]


def test_a_branch_with_pictures_sees_what_a_trunk_with_them_would() -> None:
    """Read after the window, or alone after the sink, as a session reads its frames."""
    bench = opened(frames=3, window=8)
    pictures = past(bench, 7, 8)
    shown = last_logits(bench, pictures)
    assert not np.allclose(shown, last_logits(bench), atol=1e-3)
    for picture in pictures:
        pixels = np.frombuffer(picture.pixels, np.uint8).reshape(64, 64, 3)
        bench.push("s", pixels, 9)
    bench.run()
    assert np.allclose(shown, last_logits(bench), atol=1e-4)

    alone = last_logits(bench, past(bench, 7), alone=True)
    other = opened(frames=0)
    other.push("s", random_picture(np.random.default_rng(7)), 1)
    other.run()
    assert np.allclose(alone, last_logits(other), atol=1e-4)


def test_pictures_of_a_branch_never_enter_the_trunk() -> None:
    bench, untouched = opened(), opened()
    ask(bench, past(bench, 7, 8, 9))
    ask(bench, past(bench, 5), alone=True)
    bench.run()
    trunks = [each.core.sessions["s"].trunk for each in (bench, untouched)]
    assert trunks[0].cursor == trunks[1].cursor
    kept = [
        each.runner.save(each.cache.pages(trunk))
        for each, trunk in zip((bench, untouched), trunks, strict=True)
    ]
    assert (kept[0] == kept[1]).all(), "bit for bit"
    assert (last_logits(bench) == last_logits(untouched)).all(), "and so is the next answer"


def test_a_branch_that_pauses_reads_its_pictures_again() -> None:
    """With fewer pages than its session's answers would like, it says what it says alone."""
    said = []
    for branch_tokens in (400, 40):
        bench = opened(frames=2, branch_tokens=branch_tokens, num_pages=1024)
        recorders = [ask(bench, past(bench, n, n + 1)) for n in range(4)]
        bench.run()
        bench.cache.check_integrity()
        said.append([recorder.tokens for recorder in recorders])
        assert all(recorder.reason is FinishReason.LENGTH for recorder in recorders)
    assert said[0] == said[1]


def test_what_runs_in_the_background_runs_when_nothing_else_does() -> None:
    bench = opened()
    noted, asked = Recorder(), Recorder()
    note = Generation(list(QUESTION), 20, noted, background=True)
    bench.engine.submit_branch("s", note)
    bench.turn()
    bench.turn()
    bench.engine.submit_branch("s", Generation(list(QUESTION), 20, asked))
    while not asked.ended:
        before = len(noted.tokens)
        bench.turn()
        if bench.core.sessions["s"].running[0].branch is not None and len(asked.tokens) > 1:
            assert len(noted.tokens) == before, "a question is under way"
    assert not noted.ended
    bench.run()
    assert noted.reason is FinishReason.LENGTH
    alone = Recorder()
    other = opened()
    other.engine.submit_branch("s", Generation(list(QUESTION), 20, alone))
    other.run()
    assert noted.tokens == alone.tokens == asked.tokens


def test_a_waiting_note_lets_questions_pass() -> None:
    bench = opened()
    session = bench.core.sessions["s"]
    order = []
    for background in (True, False, True, False):
        job = Generation(list(QUESTION), 1, Recorder(), background=background)
        session.enqueue(job)
        order = [each.background for each in session.waiting]
    assert order == [False, False, True, True]


def test_the_embedding_is_of_the_newest_frame() -> None:
    bench = opened(frames=1)
    picture = random_picture(np.random.default_rng(3))
    found = []
    for _ in range(2):
        bench.push("s", picture, 5)
        bench.run()
        newest = bench.core.newest("s")
        assert newest is not None
        assert newest.picture.pixels == picture.tobytes()
        found.append(np.frombuffer(newest.embedding, "<f2"))
    assert found[0].shape == (32,)
    assert np.linalg.norm(found[0].astype(np.float32)) == pytest.approx(1, abs=1e-2)
    assert (found[0] == found[1]).all()


def moments(bench: Bench, count: int) -> inference_pb2.Recall:
    recall = inference_pb2.Recall(now_ns=600 * NS, question="what is it", answer="From memory.")
    for number, picture in enumerate(past(bench, *range(count))):
        recall.moments.add(
            start_ns=number * NS,
            end_ns=(number + 1) * NS,
            line="a red circle",
            pixels=picture.pixels,
            width=64,
            height=64,
        )
    return recall


def test_a_model_that_reads_no_words_is_shown_one_picture_or_recites() -> None:
    bench = opened()
    recall = moments(bench, 2)
    asked = recalled(recall, "what was it ten minutes ago", bench.model, room=100)
    assert (asked.text, len(asked.pictures), asked.alone) == ("what is it", 1, True)
    assert asked.prefix == "From memory, 10 minutes ago (00:00:00 UTC): "
    recall.moments[0].clock = "01:00:00 CET"
    asked = recalled(recall, "what was it ten minutes ago", bench.model, room=100)
    assert asked.prefix == "From memory, 10 minutes ago (01:00:00 CET): "
    recall.question = ""
    assert recalled(recall, "what happened", bench.model, room=100).recited == "From memory."
    recall.question = "what is it"
    assert recalled(recall, "what was it", bench.model, room=1).recited == "From memory."


def test_bad_recollections_are_refused() -> None:
    bench = opened()
    with pytest.raises(InvalidArgumentError):
        recalled(moments(bench, 5), "what was it", bench.model, room=1000)
    short = moments(bench, 1)
    short.moments[0].pixels = b"123"
    with pytest.raises(InvalidArgumentError):
        recalled(short, "what was it", bench.model, room=1000)


def test_an_answer_that_goes_on_from_memory_says_what_it_knows_or_the_line() -> None:
    bench = opened()
    recall = moments(bench, 2)
    recall.said = "there is no phone"
    asked = recalled(recall, "how much is the phone", bench.model, room=100)
    assert asked.whole("9 dollars") == (
        ". From memory, 10 minutes ago (00:00:00 UTC): 9 dollars"
    ), "of then"
    assert asked.whole("there is no phone") == ". From memory.", "nor then: its line"
    assert asked.whole("") == ". From memory.", "or the picture was unfamiliar"
    recall.said = "I see none."
    assert recalled(recall, "how much is it", bench.model, room=1).recited == " From memory."


def test_what_was_said_from_memory_is_no_history_of_a_model_that_reads_no_words() -> None:
    assert of_now("there is no phone. From memory, 5 minutes ago (00:00:00 UTC): yes") == (
        "there is no phone"
    )
    assert of_now("I see none. From memory: a phone") == "I see none"
    assert of_now("From memory, 5 minutes ago (00:00:00 UTC): a phone") == ""
    assert of_now("a phone. it came from memory, lane") == "a phone. it came from memory, lane"


async def test_the_whole_answer_begins_with_what_was_said_before() -> None:
    bench = opened()
    await asyncio.wrap_future(bench.engine.start())
    try:
        answerer = Answerer(bench.engine, bench.model, None, None, 8, 4)
        for said in ("", "there is no phone"):
            recall = moments(bench, 1)
            recall.said = said
            question = gateway_pb2.Question(turn="t", text="what is it", max_tokens=4)
            request = inference_pb2.AnswerRequest(session_id="s", question=question, recall=recall)
            deltas, done = [], gateway_pb2.AnswerDone()
            async for event in answerer.answer(request):
                deltas += [event.text_delta.text] if event.HasField("text_delta") else []
                done = event.done if event.HasField("done") else done
            assert said + "".join(deltas) == done.text
            assert deltas[0].startswith(". From memory, " if said else "From memory, ")
            assert not done.unsure
            assert not said or len(deltas) == 1, "nobody knows before whether it knows"
    finally:
        bench.engine.stop()
