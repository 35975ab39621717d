"""Stream ids: what an SRT caller says of itself, in the ways that encoders write it."""

from urllib.parse import parse_qs

_STANDARD = "#!::"  # of SRT's access control guidelines


def key_of(stream_id: str) -> str:
    """The publishing key in a stream id; "" where there is none, or whoever comes wants to play.

    `<key>`, `live/<key>`, `publish:<key>`, `publish:<name>?key=<key>`, as MediaMTX also
    `publish:<name>:<user>:<key>`, and `#!::m=publish,r=<name>,s=<key>`, or the key as `r`.
    """
    if stream_id.startswith(_STANDARD):
        return _standard(stream_id.removeprefix(_STANDARD))
    mode, colon, rest = stream_id.partition(":")
    if colon and mode != "publish":
        return ""
    path, _, query = (rest if colon else stream_id).partition("?")
    if named := parse_qs(query).get("key"):
        return named[-1]
    name, *credentials = path.split(":")
    return credentials[-1] if credentials else name.rpartition("/")[2]


def _standard(text: str) -> str:
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    if fields.get("m", "publish") != "publish":
        return ""
    return fields.get("s") or fields.get("r", "").rpartition("/")[2]
