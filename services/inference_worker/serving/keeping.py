"""Keeping of what was asked and answered: handed to the dialogue service, and said to be stored."""

import asyncio

from services.inference_worker.serving.history import History
from sightline.v1 import gateway_pb2, inference_pb2

KEPT_S = 0.25  # how long the end of an answer may wait for the word that it is stored

Stored = asyncio.Future[bool]


def keep(
    history: History | None,
    request: inference_pb2.AnswerRequest,
    done: gateway_pb2.AnswerDone,
    asked_ns: int,
    *,
    interrupted: bool,
) -> Stored | None:
    """Hand the round over; None where nothing is kept, as of a turn that is not answered yet: what
    was called comes back with its outputs. Nor of one that nobody has asked yet."""
    if history is None or not request.conversation or done.tool_calls or request.ahead:
        return None
    return history.append(
        request.conversation,
        turn=request.question.turn,
        question=request.question.text,
        answer=done.text,
        asked_ns=asked_ns,
        capture_ns=done.last_capture_ns,
        interrupted=interrupted,
        session=request.home or request.session_id,
    )


async def tell_kept(
    history: History | None,
    request: inference_pb2.AnswerRequest,
    done: gateway_pb2.AnswerDone,
    stored: Stored | None,
) -> None:
    """Say in an answer's end whether its round is stored by now, or in a moment."""
    if history is None or not request.conversation:
        return
    if stored is not None:
        if history.available:
            await asyncio.wait({stored}, timeout=KEPT_S)
        done.kept = stored.done() and stored.result()
    elif request.ahead:
        done.kept = False  # the asker does
