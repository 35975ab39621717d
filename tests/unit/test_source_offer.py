"""SDP offers: each refusal says what is missing, and no text ends in anything else."""

import random

import pytest

from services.gateway.sources.whip.offer import check_offer
from sightline.errors import InvalidArgumentError

OFFER = "\r\n".join(
    [
        "v=0",
        "o=- 1 1 IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1",
        "a=fingerprint:sha-256 AA:BB",
        "m=video 9 UDP/TLS/RTP/SAVPF 96",
        "c=IN IP4 0.0.0.0",
        "a=mid:0",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:abcdefghijklmnopqrstuv",
        "a=rtpmap:96 H264/90000",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "a=mid:1",
        "a=rtpmap:111 opus/48000/2",
        "",
    ]
)


def test_an_offer_that_is_whole_is_not_refused() -> None:
    check_offer(OFFER)
    check_offer(OFFER.replace("\r\n", "\n"))
    check_offer(
        OFFER.replace("m=video 9", "m=video 0").replace("a=mid:0", "a=mid:0\na=bundle-only")
    )


@pytest.mark.parametrize(
    ("line", "instead", "words"),
    [
        ("v=0", "v=1", "begins with v=0"),
        ("s=-", "s", "line 3"),
        ("s=-", "s=\0", "line 3"),
        ("m=video 9 UDP/TLS/RTP/SAVPF 96", "m=video 0 UDP/TLS/RTP/SAVPF 96", "port is 0"),
        ("m=video 9 UDP/TLS/RTP/SAVPF 96", "m=video 9", "no port or no format"),
        ("m=video 9 UDP/TLS/RTP/SAVPF 96", "m=video -9 UDP/TLS/RTP/SAVPF 96", "no port"),
        ("m=video 9 UDP/TLS/RTP/SAVPF 96", "m=audio 9 UDP/TLS/RTP/SAVPF 96", "with video"),
        ("a=ice-ufrag:abcd", "a=x", "no a=ice-ufrag"),
        ("a=ice-pwd:abcdefghijklmnopqrstuv", "a=x", "no a=ice-pwd"),
        ("a=fingerprint:sha-256 AA:BB", "a=x", "no a=fingerprint"),
        (
            "a=rtpmap:96 H264/90000",
            "a=rtpmap:96 theora/90000",
            "is theora; this server takes",
        ),
        ("a=mid:1", "a=mid:0", "one a=mid"),
        ("a=mid:1", "a=x", "BUNDLE"),
        ("a=group:BUNDLE 0 1", "a=group:BUNDLE 0 7", "BUNDLE"),
        ("t=0 0", "t=0 0" + "\nm=audio 9 x 1" * 20, "at most 16"),
    ],
)
def test_what_is_missing_is_said(line: str, instead: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        check_offer(OFFER.replace(line, instead, 1))


def test_no_text_ends_in_another_error() -> None:
    random.seed(14)
    lines = OFFER.splitlines()
    odd = ["", "m=video", "m=", "a=mid:", "a=group:BUNDLE", "é", "a=rtpmap:", "m=video 9 x", "v=0"]
    taken = 0
    for _ in range(5000):
        mixed = list(lines)
        for _ in range(random.randint(0, 4)):
            at = random.randrange(len(mixed))
            mixed[at : at + random.randint(0, 2)] = random.choices(odd + lines, k=1)
        text = "\n".join(mixed)[: random.choice([random.randrange(400), None])]
        try:
            check_offer(text)
        except InvalidArgumentError:
            continue
        taken += 1
    assert taken > 100
