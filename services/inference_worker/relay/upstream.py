"""Upstream of a relay: the model server's HTTP API, with its faults told in words of ours.

What the server says of itself goes to the log; callers hear neither its words nor its address.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp

from services.common.backoff import Backoff
from services.common.redaction import HIDDEN
from services.common.retry_after import seconds_of
from services.inference_worker import metrics
from services.inference_worker.relay.address import RelayAddress
from services.inference_worker.relay.stream import (
    Chunk,
    EventReader,
    UpstreamFaultError,
    first_choice,
)
from sightline.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    SightlineError,
    UnavailableError,
)
from sightline.reasons import Reason

log = logging.getLogger(__name__)

CONNECT_S = 5.0
LOOK_TIMEOUT_S = 5.0
TRIES = 3  # of a request that was not begun to be answered
MOST_WAIT_S = 5.0  # before another try; who names more is not waited for
RETRY_AFTER_S = 2.0  # told to callers
MOST_TOLD_S = 3600.0  # that a server may have callers wait
MOST_BODY_BYTES = 1024 * 1024
WORDS_S = 2.0  # for what a server says of its refusal
ENDING_S = 2.0  # after the end of an answer, for what it cost
_BUSY = 429
_PASSING = frozenset({_BUSY, 500, 502, 503, 504})
_KEY = frozenset({401, 403})
_NAME = frozenset({404, 405, 410})

AWAY = "the model server is away"
BUSY = "the model server has too much to do"
CUT = "the model server broke off its answer"
SILENT = "the model server has been silent for too long"
REFUSED = "the model server does not take this question"
NO_KEY = "the model server wants another key than it was given: its operator can tell"
NO_NAME = "the model server does not know this model: its operator can tell"
ELSEWHERE = "the model server has moved: its operator can tell"
NONSENSE = "what the model server sent is no answer"
NOTHING = "the model server gave an empty answer"
THOUGHTS = "the model thought for so long that it said nothing: let its answer be longer"


class Upstream:
    """The API of one model server. Made on a running event loop; `aclose` it."""

    def __init__(self, address: RelayAddress, timeout_s: float) -> None:
        headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        self._url, self._key = address.url, address.key
        self._timeout_s = timeout_s
        self._session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=timeout_s),
            connector=aiohttp.TCPConnector(limit=0),  # the relay's own bound is the bound
        )

    async def aclose(self) -> None:
        await self._session.close()

    async def models(self) -> list[str]:
        """Names of the server's models. Raises UnavailableError, with what went wrong as its
        message, which is for the log."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                async with self._session.get(
                    f"{self._url}/models", allow_redirects=False
                ) as response:
                    if response.status != 200:
                        raise UnavailableError(f"GET /models is answered with {response.status}")
                    body = await _json(response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise UnavailableError(f"{type(error).__name__}: {error}"[:300]) from error
        data = body.get("data")
        entries = data if isinstance(data, list) else []
        names = [each.get("id") for each in entries if isinstance(each, dict)]
        return [each for each in names if isinstance(each, str)]

    async def stream(self, request: dict[str, Any]) -> AsyncGenerator[Chunk, None]:
        """An answer as it comes. Closing the iterator closes the connection, by which servers know
        that nobody reads on. What says nothing, as a comment does, is silence, however often it
        comes. Raises UnavailableError, ResourceExhaustedError or InvalidArgumentError."""
        reader = EventReader(calls="tools" in request)
        async with self._asked({**request, "stream": True}) as response:
            try:
                async with contextlib.aclosing(self._read(response, reader)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except UpstreamFaultError as error:
                fields = {"error": self._shown(str(error))}
                log.warning("the model server failed amid an answer", extra=fields)
                raise _away(CUT if reader.begun else NONSENSE, "cut") from error
            except (aiohttp.ClientError, OSError) as error:
                if isinstance(error, TimeoutError):
                    raise _away(SILENT, "silent") from error
                raise _away(CUT, "cut") from error
            if not reader.whole:
                if not reader.begun:
                    fields = {"error": f"no events, but {response.content_type}"}
                    log.warning("the model server failed amid an answer", extra=fields)
                raise _away(CUT if reader.begun else NONSENSE, "cut")
        metrics.RELAY_REQUESTS.labels("answered").inc()

    async def _read(
        self, response: aiohttp.ClientResponse, reader: EventReader
    ) -> AsyncGenerator[Chunk, None]:
        """Chunks until the answer is over. Raises what reading does, TimeoutError for silence."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._timeout_s
        while not reader.done:
            try:
                async with asyncio.timeout_at(until_s):
                    data = await response.content.readany()
            except TimeoutError:
                if reader.whole:  # it leaves the connection open
                    return
                raise
            for chunk in reader.feed(data) if data else reader.end():
                if chunk != Chunk():
                    until_s = loop.time() + (ENDING_S if reader.whole else self._timeout_s)
                yield chunk
            if not data:
                return

    async def complete(self, request: dict[str, Any]) -> dict[str, Any]:
        """A whole answer. Raises what `stream` does."""
        async with self._asked({**request, "stream": False}) as response:
            try:
                async with asyncio.timeout(self._timeout_s):
                    body = await _json(response)
            except TimeoutError as error:
                raise _away(SILENT, "silent") from error
            except ValueError as error:
                raise _away(NONSENSE, "cut") from error
            except (aiohttp.ClientError, OSError) as error:
                raise _away(CUT, "cut") from error
        if not first_choice(body):
            fields = {"error": self._shown(str(body.get("error"))[:300])}
            log.warning("the model server failed amid an answer", extra=fields)
            raise _away(NONSENSE, "cut")
        metrics.RELAY_REQUESTS.labels("answered").inc()
        return body

    @contextlib.asynccontextmanager
    async def _asked(self, request: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a question that the server takes, tried again where that makes sense."""
        backoff = Backoff(0.2, 2.0)
        for left in reversed(range(TRIES)):
            wait_s = backoff.next_s()
            try:
                response = await self._session.post(
                    f"{self._url}/chat/completions", json=request, allow_redirects=False
                )
            except (aiohttp.ServerTimeoutError, TimeoutError) as error:
                if isinstance(error, aiohttp.ConnectionTimeoutError):
                    raise _away(AWAY, "away") from error
                raise _away(SILENT, "silent") from error
            except (aiohttp.ClientError, OSError) as error:
                if not left:
                    raise _away(AWAY, "away") from error
            else:
                async with response:
                    if response.status == 200:
                        yield response
                        return
                    asked_s = _retry_after_s(response)
                    wait_s = max(wait_s, asked_s)
                    again = response.status in _PASSING and wait_s <= MOST_WAIT_S
                    if not (left and again):
                        raise await self._refusal(response, asked_s)
            await asyncio.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    async def _refusal(
        self, response: aiohttp.ClientResponse, retry_after_s: float
    ) -> SightlineError:
        """What a status means to whoever asked; the log has the server's own words."""
        words = ""
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with asyncio.timeout(WORDS_S):
                words = (await response.content.read(2048)).decode("utf-8", "replace")
        fields = {"status": response.status, "words": self._shown(words)}
        log.warning("the model server refused a question", extra=fields)
        if response.status == _BUSY:
            metrics.RELAY_REQUESTS.labels("busy").inc()
            return ResourceExhaustedError(
                BUSY, reason=Reason.TOO_MANY_QUESTIONS, retry_after_s=retry_after_s or RETRY_AFTER_S
            )
        if response.status in _KEY:
            return _away(NO_KEY, "away", retry_after_s)
        if response.status in _NAME:
            return _away(NO_NAME, "away", retry_after_s)
        if response.status < 400:
            return _away(ELSEWHERE, "away", retry_after_s)
        if response.status >= 500:
            return _away(AWAY, "away", retry_after_s)
        metrics.RELAY_REQUESTS.labels("refused").inc()
        return InvalidArgumentError(REFUSED)

    def _shown(self, words: str) -> str:
        """Words of the server's for the log: it may say the key again that it was given."""
        return words.replace(self._key, HIDDEN) if self._key else words


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """Raises ValueError for what is no object of a decent size."""
    data = bytearray()
    async for part in response.content.iter_any():
        data += part
        if len(data) > MOST_BODY_BYTES:
            raise ValueError("a body without end")
    try:
        body = json.loads(data.decode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("a body that is too deep") from None
    if not isinstance(body, dict):
        raise ValueError("a body that is no object")
    return body


def nothing(thought: bool) -> UnavailableError:
    """An answer without a word; `thought`: for its whole length."""
    words = THOUGHTS if thought else NOTHING
    return UnavailableError(words, reason=Reason.MODEL_AWAY, retry_after_s=RETRY_AFTER_S)


def _away(message: str, outcome: str, retry_after_s: float = 0.0) -> UnavailableError:
    metrics.RELAY_REQUESTS.labels(outcome).inc()
    return UnavailableError(
        message, reason=Reason.MODEL_AWAY, retry_after_s=retry_after_s or RETRY_AFTER_S
    )


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    """Seconds of Retry-After; 0 where it names none."""
    return min(MOST_TOLD_S, seconds_of(response.headers.get("Retry-After", ""), time.time()))
