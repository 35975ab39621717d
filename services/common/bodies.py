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
    if (size := request.content_length or 0) > most_bytes:
        raise too_large(most_bytes, size)
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
        raise too_large(most_bytes, len(body))
    return bytes(body)


def too_large(most_bytes: int, size_bytes: int) -> web.HTTPRequestEntityTooLarge:
    """The refusal of a body, which says how long one may be."""
    reason = f"what was sent is longer than the {most_bytes} bytes that are read here"
    return web.HTTPRequestEntityTooLarge(most_bytes, size_bytes, reason=reason)
