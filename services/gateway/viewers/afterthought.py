"""Afterthought of an answer: what the session remembers of what its model was not sure of now."""

import contextlib
from collections.abc import AsyncGenerator

from services.gateway.memory.recaller import Found
from sightline.errors import SightlineError
from sightline.v1 import gateway_pb2, inference_pb2

Events = AsyncGenerator[inference_pb2.AnswerEvent, None]


async def afterthought(unsure: inference_pb2.AnswerEvent, more: Events, found: Found) -> Events:
    """The events of an answer from where its model was not sure on. unsure: its `done` until here,
    of which the viewer has had all words; more: the events of what comes from memory. Where that
    fails, the answer ends as it would have."""
    first, told = unsure.done, unsure.done.text
    try:
        async with contextlib.aclosing(more) as events:
            async for event in events:
                match event.WhichOneof("event"):
                    case "started" if not event.started.restarted:
                        continue
                    case "started":  # its viewer begins anew
                        yield event
                        told = first.text
                        delta = gateway_pb2.TextDelta(turn=first.turn, text=told)
                        yield inference_pb2.AnswerEvent(text_delta=delta)
                        continue
                    case "text_delta":
                        told += event.text_delta.text
                    case "done":
                        yield inference_pb2.AnswerEvent(done=_joined(first, event.done, found))
                        return
                yield event
    except SightlineError:
        if told != first.text:
            first.memory.extend(found.recollections)
        first.text = told
        yield unsure


def _joined(
    first: gateway_pb2.AnswerDone, second: gateway_pb2.AnswerDone, found: Found
) -> gateway_pb2.AnswerDone:
    """The end of an answer of two parts: about the window, as the first, with all of the words."""
    done = gateway_pb2.AnswerDone()
    done.CopyFrom(first)
    done.text = second.text
    done.finish_reason = second.finish_reason
    done.prompt_tokens += second.prompt_tokens
    done.answer_tokens += second.answer_tokens
    done.total_ms += second.total_ms
    done.resumed = first.resumed or second.resumed
    done.memory.extend(found.recollections)
    done.degraded.extend(flag for flag in second.degraded if flag not in first.degraded)
    if second.HasField("kept"):
        done.kept = second.kept
    return done
