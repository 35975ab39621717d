"""Secrets in addresses: taken out before anybody reads a message, a log line or an error."""

import re
from urllib.parse import unquote

HIDDEN = "***"
MAX_URL_CHARACTERS = 4096  # of a longer one nothing is shown

# At most so many characters before "://": a search without a bound takes minutes on long words.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,15})://([^\s\"<>]*)")
_PORT_OR_NONE = re.compile(r"(?:\[[^\]]*\]|[^:\[\]]*)(?::\d*)?")
_SEPARATORS = re.compile(r"([&;])")
# Query values that say which picture is meant, not who may see it. All others are hidden, because
# the names of passwords cannot be listed.
_HARMLESS = frozenset(
    {
        "camera",
        "channel",
        "chn",
        "codec",
        "fps",
        "height",
        "profile",
        "proto",
        "quality",
        "res",
        "resolution",
        "rtsp_transport",
        "size",
        "stream",
        "subtype",
        "transport",
        "transportmode",
        "type",
        "unicast",
        "video",
        "width",
    }
)
_PLAIN_VALUE = re.compile(r"[A-Za-z]{0,8}|[0-9]{1,4}")
_NAME = re.compile(r"[A-Za-z_-]{1,32}")
# Query names whose value lets whoever has it do something. Signatures that let a picture be loaded
# are none: whoever is to see the picture needs them.
_KEYS = re.compile(
    r"(?:.*[_-])?(?:token|password|passwd|pass|pwd|secret|apikey|api_key|api-key|auth|authorization)"
    r"|key|access[_-]?key",
    re.IGNORECASE,
)
# Schemes whose path ends with a key that publishes or plays.
_KEYED = ("rtmp", "rtmps", "rtmpt", "rtmpe", "srt")


def redacted(text: str) -> str:
    """The text with every URL in it shown without passwords, keys and tokens.

    Hidden are user and password, values of queries (but for those that only choose a picture),
    parts of a path that assign something or look drawn at random, and an RTMP address's stream key.
    What is left of a URL that was redacted already stays as it is.
    """
    return _URL.sub(lambda found: _without_secrets(found[1], found[2]), text)


def holds_secret(text: str) -> bool:
    """Whether an address in a text has a user, a password, or a key by a usual name in its query.
    This asks less than `redacted` hides: it is for texts that others read as they are."""
    return any(_is_keyed(found[2]) for found in _URL.finditer(text))


def _is_keyed(rest: str) -> bool:
    if len(rest) > MAX_URL_CHARACTERS:
        return True
    authority, _, query, fragment = _split(rest)
    if "@" in authority or (authority == HIDDEN and "@" in rest):
        return True
    assignments = _SEPARATORS.split(f"{query or ''}&{fragment or ''}")
    parts = (piece.partition("=") for piece in assignments)
    return any(value and _KEYS.fullmatch(unquote(name)) for name, _, value in parts)


def _without_secrets(scheme: str, rest: str) -> str:
    if len(rest) > MAX_URL_CHARACTERS:
        return f"{scheme}://{HIDDEN}"
    if scheme.lower() == "file":
        return f"{scheme}://{rest}"
    authority, path, query, fragment = _split(rest)
    if "@" in authority:
        authority = f"{HIDDEN}@{authority.rpartition('@')[2]}"
    parts = re.split(r"([/\\])", path)  # with its separators: "", "/", "live", "/", "key"
    if scheme.lower() in _KEYED:
        parts[4:] = [HIDDEN if part.strip("/\\") else part for part in parts[4:]]
    shown = f"{scheme}://{authority}{''.join(_part(part) for part in parts)}"
    if query is not None:
        shown += f"?{_query(query)}"
    if fragment is not None:
        shown += f"#{HIDDEN if fragment else ''}"
    return shown


def _split(rest: str) -> tuple[str, str, str | None, str | None]:
    """(authority, path, query, fragment). A password that holds / ? or # unescaped belongs to the
    authority, which then does not end like one."""
    end = re.search(r"[/?#\\]", rest)
    at = end.start() if end else len(rest)
    if "@" not in rest[:at] and not _PORT_OR_NONE.fullmatch(rest[:at]):
        last = rest.rfind("@")
        if last < at:
            return HIDDEN, "", None, None
        end = re.compile(r"[/?#\\]").search(rest, last)
        at = end.start() if end else len(rest)
    authority, tail = rest[:at], rest[at:]
    tail, mark, fragment = tail.partition("#")
    path, question, query = tail.partition("?")
    return authority, path, query if question else None, fragment if mark else None


def _query(query: str) -> str:
    return "".join(
        piece if piece in ("&", ";", "") else _assignment(piece)
        for piece in _SEPARATORS.split(query)
    )


def _assignment(piece: str) -> str:
    name, equals, value = piece.partition("=")
    if not equals:
        return HIDDEN
    if name.lower() in _HARMLESS and _PLAIN_VALUE.fullmatch(value):
        return piece
    return f"{name if _NAME.fullmatch(name) else HIDDEN}={HIDDEN}"


def _part(part: str) -> str:
    """A path's part: hidden where it assigns something (`user=admin_password=…`) or where it is a
    long mixture of letters and digits."""
    if "=" in part or ":" in part or "@" in part:
        return HIDDEN
    for word in re.split(r"[-_.~]", part):
        mixed = re.search(r"[0-9]", word) and re.search(r"[A-Za-z%]", word)
        if len(word) >= 12 and (mixed or len(word) >= 24):
            return HIDDEN
    return part
