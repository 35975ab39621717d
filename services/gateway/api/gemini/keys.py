"""Keys of Google's clients, from the places where those put them."""

from aiohttp import web


def key_of(request: web.Request) -> str:
    """The key that a request brings; "" without one. `Authorization: Bearer …` is read by
    `Callers`."""
    header = request.headers.get("x-goog-api-key", "")
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "token":
        header = header or token.strip()
    return header or request.query.get("key", "") or request.query.get("access_token", "")
