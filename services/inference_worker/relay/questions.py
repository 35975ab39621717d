"""Questions as a model server takes them: pictures, then words, with what the asker wants."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from services.inference_worker.engine.jobs import Generation
from services.inference_worker.model.sampling import Sampling
from services.inference_worker.relay import verdict
from services.inference_worker.relay.stream import Chunk
from services.inference_worker.relay.upstream import Upstream
from sightline.errors import InvalidArgumentError

TOP_LOGPROBS = 10
WORD_TOKENS = 256  # of a verdict in words; some models think before they say it
NS = 1e9
_SEEDS = 2**31  # what every server takes; a seed of ours that nobody chose is larger


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame as it is shown: JPEG in base64."""

    capture_ns: int
    jpeg: str


class Asking:
    """Asks one model of a server."""

    def __init__(self, upstream: Upstream, model: str) -> None:
        self._upstream = upstream
        self._model = model
        self._tells_probabilities = True

    async def say(
        self, job: Generation, pictures: Sequence[Picture], remembered: Sequence[Picture] = ()
    ) -> AsyncGenerator[Chunk, None]:
        """An answer as it comes. remembered: pictures of the past, which the question tells of.
        Raises what `Upstream.stream` does."""
        request = self._request(job.pending, pictures, job.max_tokens, remembered)
        request |= _sampled(job.sampling) | (job.held or {})
        request["stream_options"] = {"include_usage": True}
        try:
            async with contextlib.aclosing(self._upstream.stream(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        except InvalidArgumentError:  # of a server that refuses what it does not know
            if request.pop("response_format", None) is None:
                raise
        async with contextlib.aclosing(self._upstream.stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def score(self, messages: Sequence[Any], pictures: Sequence[Picture]) -> float:
        """Probability of yes: by the first token's probabilities, or in words where the server
        tells none. Raises what `Upstream.complete` does."""
        tells = self._tells_probabilities
        if tells:
            request = self._request(messages, pictures, 1)
            request |= {"temperature": 0.0, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
            try:
                completion = await self._upstream.complete(request)
            except InvalidArgumentError:  # of a server that refuses what it does not know
                completion = {}
            tells = verdict.tells_probabilities(completion)
            probability = verdict.by_probability(completion)
            if probability is not None:
                return probability
        request = self._request(messages, pictures, WORD_TOKENS) | {"temperature": 0.0}
        said = await self._upstream.complete(request)
        self._tells_probabilities = tells  # now it is known that the question was not at fault
        return verdict.by_words(said)

    def _request(
        self,
        messages: Sequence[Any],
        pictures: Sequence[Picture],
        max_tokens: int,
        remembered: Sequence[Picture] = (),
    ) -> dict[str, Any]:
        """`messages`, the last user's of which is the question: the pictures come before its
        words."""
        at = max(n for n, message in enumerate(messages) if message["role"] == "user")
        earlier, question, later = messages[:at], messages[at], messages[at + 1 :]
        newest_ns = pictures[-1].capture_ns
        content: list[dict[str, Any]] = [
            {"type": "text", "text": "These are the newest frames of a live video, oldest first."}
        ]
        for picture in pictures:
            age_s = (newest_ns - picture.capture_ns) / NS
            when = f"{age_s:.1f} s before the newest:" if picture is not pictures[-1] else "Newest:"
            content += [{"type": "text", "text": when}, _shown(picture)]
        if remembered:
            content.append({"type": "text", "text": "Remembered, from before:"})
            content += [_shown(picture) for picture in remembered]
        content.append({"type": "text", "text": question["content"]})
        return {
            "model": self._model,
            "messages": [*earlier, {"role": "user", "content": content}, *later],
            "max_tokens": max_tokens,
        }


def _shown(picture: Picture) -> dict[str, Any]:
    url = f"data:image/jpeg;base64,{picture.jpeg}"
    return {"type": "image_url", "image_url": {"url": url}}


def _sampled(sampling: Sampling) -> dict[str, Any]:
    """What a server does not know it may refuse, so that only what differs is named."""
    usual = Sampling()
    named: dict[str, Any] = {"temperature": sampling.temperature}
    for name in ("top_k", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
        if getattr(sampling, name) != getattr(usual, name):
            named[name] = getattr(sampling, name)
    if sampling.seed < _SEEDS:
        named["seed"] = sampling.seed
    return named
