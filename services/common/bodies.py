"""Bodies of HTTP requests, read within bounds."""

import asyncio

from aiohttp import web

from sightline.errors import DeadlineExceededError

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_S = 10.0


async def read_text(
    request: web.Request, most_bytes: int = MAX_BODY_BYTES, timeout_s: float = BODY_TIMEOUT_S
) -> bytes:
    """The request's body. Raises DeadlineExceededError, or 413 for a long one."""
    if (request.content_length or 0) > most_bytes:
        raise web.HTTPRequestEntityTooLarge(most_bytes, request.content_length or 0)
    try:
        async with asyncio.timeout(timeout_s):
            body = bytearray()
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > most_bytes:
                    break
    except TimeoutError:
        raise DeadlineExceededError("the request did not arrive in time") from None
    if len(body) > most_bytes:
        raise web.HTTPRequestEntityTooLarge(most_bytes, len(body))
    return bytes(body)
