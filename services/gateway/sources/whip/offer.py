"""What an SDP offer must hold before it is negotiated, so that its sender reads what is missing."""

import itertools
import re

from sightline.errors import InvalidArgumentError

MAX_SECTIONS = 16
_CODECS = ("h264", "vp8")
_LINE = re.compile(r"[a-z]=[^\x00-\x08\x0a-\x1f\x7f]*")


def check_offer(offer: str) -> None:
    """Raise InvalidArgumentError, with the reason, for an offer that cannot become a connection.

    What only the negotiation can tell is left to it.
    """
    lines = offer.replace("\r\n", "\n").rstrip("\n").split("\n")
    if lines[0] != "v=0":
        raise InvalidArgumentError("not an SDP offer: it begins with v=0")
    for number, line in enumerate(lines, 1):
        if not _LINE.fullmatch(line):
            raise InvalidArgumentError(f"line {number} of the offer is no line of SDP")
    starts = [number for number, line in enumerate(lines) if line.startswith("m=")]
    if len(starts) > MAX_SECTIONS:
        raise InvalidArgumentError(f"an offer has at most {MAX_SECTIONS} media sections")
    sections = [lines[start:end] for start, end in itertools.pairwise([*starts, len(lines)])]
    head = lines[: starts[0]] if starts else lines
    videos = [section for section in sections if section[0].startswith("m=video ")]
    if not videos:
        raise InvalidArgumentError("not an SDP offer with video")
    for section in sections:
        _check_section(section)
    _check_bundle(head, sections)
    for section in videos:
        words = section[0].split()
        if words[1] == "0" and "a=bundle-only" not in section:
            raise InvalidArgumentError("the offer's video is switched off: its port is 0")
        for name in ("ice-ufrag", "ice-pwd", "fingerprint"):
            if not any(line.startswith(f"a={name}:") for line in head + section):
                raise InvalidArgumentError(f"the offer's video has no a={name}")
        names = re.findall(r"^a=rtpmap:\d+ ([\w.-]+)/", "\n".join(section), re.MULTILINE)
        if not any(name.lower() in _CODECS for name in names):
            raise InvalidArgumentError("the offer's video is neither H.264 nor VP8")


def _check_bundle(head: list[str], sections: list[list[str]]) -> None:
    """One connection for all of it, as browsers offer; without a group, sections stand alone."""
    named = [line[6:].strip() for section in sections for line in section if line[:6] == "a=mid:"]
    if len(set(named)) != len(named):
        raise InvalidArgumentError("two media sections of the offer have one a=mid")
    groups = [line.split()[1:] for line in head if line.startswith("a=group:BUNDLE")]
    if len(groups) > 1 or (groups and sorted(groups[0]) != sorted(named)):
        raise InvalidArgumentError("the offer's a=group:BUNDLE does not name its media sections")
    if groups and len(named) != len(sections):
        raise InvalidArgumentError("a media section of the offer has no a=mid")


def _check_section(section: list[str]) -> None:
    words = section[0].split()
    if len(words) < 4 or not re.fullmatch(r"[0-9]{1,5}(/[0-9]{1,3})?", words[1]):
        raise InvalidArgumentError("a media section of the offer has no port or no format")
