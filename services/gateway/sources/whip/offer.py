"""Checks of an SDP offer before it is negotiated, so that its sender reads what is missing."""

import itertools
import re

from services.gateway.sources.whip.codecs import NAMES
from sightline.errors import InvalidArgumentError

MAX_SECTIONS = 16
_HELPERS = ("rtx", "red", "ulpfec", "flexfec-03")  # of a codec, none themselves
_HIDDEN_ADDRESS = re.compile(r"a=candidate:\S+ \d+ \S+ \d+ \S+\.local ", re.IGNORECASE)
_DEFAULT_ADDRESS = re.compile(r"(a=rtcp:\d+|c=) ?IN IP[46] \S+\.local\s*", re.IGNORECASE)
_OPUS = re.compile(r"^a=rtpmap:\d+ opus/48000/2", re.IGNORECASE | re.MULTILINE)
_LINE = re.compile(r"[a-z]=[^\x00-\x08\x0a-\x1f\x7f]*")


class UnsupportedVideoError(InvalidArgumentError):
    """The offer has video, of codecs that are not taken."""


def without_hidden_addresses(offer: str) -> str:
    """The offer without candidates that browsers hide behind names (mDNS), which nobody on another
    network can look up, and without the word that no others follow: the publisher's first packet
    shows where it is. A default address that is such a name (Firefox's a=rtcp) becomes none."""
    kept = [
        _DEFAULT_ADDRESS.sub(_no_address, line)
        for line in offer.splitlines()
        if not _HIDDEN_ADDRESS.match(line) and line != "a=end-of-candidates"
    ]
    return "\r\n".join(kept) + "\r\n"


def _no_address(line: re.Match[str]) -> str:
    return f"{line[1]} IN IP4 0.0.0.0" if line[1].startswith("a=") else "c=IN IP4 0.0.0.0"


def _sections_of(offer: str) -> tuple[list[str], list[list[str]]]:
    """Lines before the media sections, and those of each. Raises InvalidArgumentError."""
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
    return lines[: starts[0]] if starts else lines, sections


def check_call(offer: str) -> None:
    """Raise InvalidArgumentError, with the reason, for an offer that cannot become a call: sound in
    Opus, and perhaps data."""
    head, sections = _sections_of(offer)
    for section in sections:
        _check_section(section)
    _check_bundle(head, sections)
    sounds = [each for each in sections if each[0].startswith("m=audio ") and not _is_off(each)]
    if not any(_OPUS.search("\n".join(section)) for section in sounds):
        raise InvalidArgumentError("the offer has no sound in Opus")
    for section in sounds:
        _check_keys(head, section, "sound")


def check_offer(offer: str) -> None:
    """Raise InvalidArgumentError, with the reason, for an offer that cannot become a connection.

    What only the negotiation can tell is left to it.
    """
    head, sections = _sections_of(offer)
    videos = [section for section in sections if section[0].startswith("m=video ")]
    if not videos:
        raise InvalidArgumentError("not an SDP offer with video")
    for section in sections:
        _check_section(section)
    if all(_is_off(section) for section in videos):
        raise InvalidArgumentError("the offer's video is switched off: its port is 0")
    _check_bundle(head, sections)
    for section in videos:
        if _is_off(section):
            continue
        _check_keys(head, section, "video")
        names = re.findall(r"^a=rtpmap:\d+ ([\w.-]+)/", "\n".join(section), re.MULTILINE)
        if not any(name.lower() in NAMES for name in names):
            *taken, last = NAMES.values()
            offered = dict.fromkeys(name for name in names if name.lower() not in _HELPERS)
            raise UnsupportedVideoError(
                f"the offer's video is {' or '.join(offered) or 'of no known codec'}; "
                f"this server takes {', '.join(taken)} and {last}"
            )


def _check_keys(head: list[str], section: list[str], kind: str) -> None:
    for name in ("ice-ufrag", "ice-pwd", "fingerprint"):
        if not any(line.startswith(f"a={name}:") for line in head + section):
            raise InvalidArgumentError(f"the offer's {kind} has no a={name}")


def _check_bundle(head: list[str], sections: list[list[str]]) -> None:
    """One connection for all of it, as browsers offer; without a group, sections stand alone."""
    named = [line[6:].strip() for section in sections for line in section if line[:6] == "a=mid:"]
    if len(set(named)) != len(named):
        raise InvalidArgumentError("two media sections of the offer have one a=mid")
    groups = [line.split()[1:] for line in head if line.startswith("a=group:BUNDLE")]
    off = [
        line[6:].strip()
        for section in sections
        if _is_off(section)
        for line in section
        if line[:6] == "a=mid:"
    ]
    wanted = [name for name in named if name not in off]
    if len(groups) > 1 or (groups and sorted(set(groups[0]) - set(off)) != sorted(wanted)):
        raise InvalidArgumentError("the offer's a=group:BUNDLE does not name its media sections")
    if groups and len(named) != len(sections):
        raise InvalidArgumentError("a media section of the offer has no a=mid")


def _is_off(section: list[str]) -> bool:
    """Whether a media section was rejected, in an earlier round of offers."""
    return section[0].split()[1] == "0" and "a=bundle-only" not in section


def _check_section(section: list[str]) -> None:
    words = section[0].split()
    if len(words) < 4 or not re.fullmatch(r"[0-9]{1,5}(/[0-9]{1,3})?", words[1]):
        raise InvalidArgumentError("a media section of the offer has no port or no format")
