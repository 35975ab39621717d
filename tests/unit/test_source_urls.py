"""Which URLs are taken, where they may lead, and what of them is shown."""

import ipaddress
import json
import logging
import random
import re
from urllib.parse import urlsplit

import pytest

from services.common.log import JsonFormatter
from services.common.redaction import holds_secret, redacted
from services.gateway.sources.remote.credentials import Credentials
from services.gateway.sources.remote.egress_policy import (
    EgressPolicy,
    Rule,
    UnreachableError,
    is_public,
)
from services.gateway.sources.remote.playlist import parts_of, variant_of
from services.gateway.sources.remote.rtsp import RtspPipe
from services.gateway.sources.remote.url import SourceUrl
from services.gateway.sources.source_opener import locate
from sightline.errors import InvalidArgumentError, SightlineError

# --- spelling -------------------------------------------------------------------------------------

TAKEN = [
    "http://example.org/clip.mp4",
    "HTTPS://Example.org:8443/a/b.m3u8?token=a%20b&x[0]=1",
    "rtsp://user:p%40ss@10.0.0.7:554/Streaming/Channels/101",
    "rtsp://[2001:db8::1]:8554/x",
    "rtmp://host/app/key",
    "rtsp://cam_1.lan/user=admin_password=x_channel=1_stream=0.sdp",
    "udp://239.0.0.1:5000",
    "http://xn--bcher-kva.example/~a/(b);c,d!$'*+=",
]
REFUSED = [
    "udp://127.0.0.1",
    "srt://127.0.0.1",
    "ftp://example.org/x",
    "tcp://127.0.0.1:6379",
    "unix:///tmp/x",
    "rtsp://[::1",
    "rtsp://[::1]x/",
    "rtsp://::1/",
    "rtsp://[v1.x]/",
    "rtsp://[fe80::1%25eth0]/",
    "http:///x",
    "http://",
    "http://a b/",
    "http://a/b c",
    "http://a/\tb",
    "http://a\\@b/",
    "http://a/\u2028",
    "http://\uff11\uff12\uff17.0.0.1/",
    "http://b\u00fccher.example/",
    "http://a/%0d%0aX",
    "http://a/%00",
    "http://a/%7f",
    "http://a/%zz",
    "http://a/%",
    "http://a/b#c",
    "http://a/b#",
    "http://a/b?",
    "http://u@v@a/",
    "http://@a/",
    "http://a:0/",
    "http://a:70000/",
    "http://a:/",
    "http://a:+80/",
    "http://a:8_0/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://127.0.0.01/",
    "http://1.2.3.4.5/",
    "http://a..b/",
    "http://-a/",
    "http://a-/",
    "http://localhost./",
    f"http://{'a' * 64}/",
    f"http://{'a.' * 127}aa/",
    f"http://a/{'b' * 3000}",
    "http://a<b/",
    'http://a/"',
    "http://a/{b}",
    "http://a/b|c",
    "http://a/`",
    "rtsp://127.0.0.1:6379/a\r\nSET injected 1\r\n",
]


@pytest.mark.parametrize("text", TAKEN)
def test_urls_that_are_taken_are_written_back(text: str) -> None:
    url = SourceUrl.parse(text)
    assert url == SourceUrl.parse(text.replace(f"{urlsplit(text).scheme}://", f"{url.scheme}://"))
    assert url.target in text


@pytest.mark.parametrize("text", REFUSED)
def test_urls_that_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        locate(text, None)
    assert text not in caught.value.message


@pytest.mark.parametrize("password", ["p@ss", "a/b", "x#1", "a@b/c#d", "@", "50%25", "ab:cd@"])
@pytest.mark.parametrize("place", ["cam.local", "10.0.0.7:8554", "[fd00::7]:554"])
@pytest.mark.parametrize("path", ["", "/", "/stream/1?channel=2"])
def test_a_cameras_password_may_be_written_as_it_is(password: str, place: str, path: str) -> None:
    url = SourceUrl.typed(f"RTSP://admin:{password}@{place}{path}")
    assert url.password == password.replace("%25", "%")
    assert url.user == "admin"
    assert url.place == SourceUrl.parse(f"rtsp://{place}/").place
    assert url.target == (path or "/")


@pytest.mark.parametrize(
    "text",
    ["http://u:p@ss@host/", "rtsp://u:a\rb@c@host/", "rtsp://u:p#@-bad-/x"],
)
def test_other_spellings_stay_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        SourceUrl.typed(text)


@pytest.mark.parametrize("text", ["udp://:5000", "UDP://@:5000", "udp://0.0.0.0:5000"])
def test_a_port_to_listen_on_may_lack_its_address(text: str) -> None:
    url = SourceUrl.typed(text)
    assert (url.scheme, url.host, url.port, url.user) == ("udp", "0.0.0.0", 5000, None)
    assert SourceUrl.typed("udp://@239.1.2.3:5000").host == "239.1.2.3"


@pytest.mark.parametrize(
    ("text", "scheme"),
    [("rtspt://cam/x", "rtsp"), ("RTSPU://u:p@ss@cam/x", "rtsp"), ("rtp://@:5000", "udp")],
)
def test_schemes_of_other_programs_are_understood(text: str, scheme: str) -> None:
    assert SourceUrl.typed(text).scheme == scheme


def master(*variants: str) -> str:
    lines = [f"#EXT-X-STREAM-INF:{told}\r\n{name}.m3u8" for name, told in enumerate(variants)]
    return "\r\n".join(["#EXTM3U", '#EXT-X-MEDIA:TYPE=AUDIO,URI="a.m3u8"', *lines, ""])


@pytest.mark.parametrize(
    ("variants", "taken"),
    [
        (["RESOLUTION=640x360", "RESOLUTION=1920x1080", "RESOLUTION=1280x720"], 2),
        (["RESOLUTION=3840x2160", "RESOLUTION=1920x1080", "RESOLUTION=640x360"], 1),
        (["RESOLUTION=256x144", "RESOLUTION=640x360"], 1),
        (["RESOLUTION=720x1280,BANDWIDTH=1", "RESOLUTION=1080x1920"], 0),  # upright
        (["BANDWIDTH=1,RESOLUTION=1280x720", "BANDWIDTH=2,RESOLUTION=1280x720"], 1),
        (["BANDWIDTH=400000", "BANDWIDTH=3000000", "BANDWIDTH=12000000"], 1),
        (['CODECS="mp4a.40.2",BANDWIDTH=3000000', 'CODECS="avc1.42c00d,mp4a.40.2",BANDWIDTH=9'], 1),
        (['NAME="a,RESOLUTION=1x1",RESOLUTION=640x360', "RESOLUTION=x"], 0),
    ],
)
def test_the_smallest_useful_variant_is_taken(variants: list[str], taken: int) -> None:
    assert variant_of(master(*variants)) == f"{taken}.m3u8"


@pytest.mark.parametrize("text", ["", "#EXTM3U\n#EXTINF:1,\na.ts\n", "#EXT-X-STREAM-INF:", "\0"])
def test_a_playlist_without_variants_has_none(text: str) -> None:
    assert variant_of(text) is None


def test_a_url_in_parts() -> None:
    url = SourceUrl.parse("rtsp://us%3Aer:p%40s:s@cam.lan/live?x=1")
    assert (url.user, url.password, url.host, url.port) == ("us:er", "p@s:s", "cam.lan", 554)
    assert (url.target, url.place) == ("/live?x=1", "cam.lan")
    assert url.joined("/other").user == "us:er"
    assert url.joined("rtsp://other.lan/").user is None
    assert url.joined("rtsp://cam.lan:555/").user is None
    assert SourceUrl.parse("http://[::1]:80/").place == "[::1]"


def test_no_text_is_taken_in_two_ways() -> None:
    """Whatever is put together: an error of ours, or a URL that urllib reads alike."""
    random.seed(14)
    pieces = [
        *TAKEN,
        *REFUSED,
        *("@", ":", "/", "\\", "?", "#", "[", "]", "%", "%0a", "\r\n", " ", "\0", "\x85", "é"),
        *("127.0.0.1", "localhost", "0x7f.1", "::1", "6379", "http://", "rtsp://", "."),
    ]
    taken = 0
    for _ in range(20_000):
        text = "".join(random.choices(pieces, k=random.randint(1, 4)))
        if random.random() < 0.3:
            at = random.randrange(len(text) + 1)
            text = text[:at] + chr(random.choice([*range(0x100), 0x2028, 0xFF0E])) + text[at:]
        try:
            url = SourceUrl.parse(text)
        except InvalidArgumentError:
            continue
        taken += 1
        parts = urlsplit(text)
        assert (parts.hostname or "").lower() == url.host.lower()
        assert (parts.port or url.port) == url.port
        assert text.isascii()
        assert text.isprintable()
    assert taken > 500


def test_paths_never_raise_anything_else(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("root")
    for text in ("a" * 5000, "a/" * 2000, "a\nb", "\udcff", "a\0", "..", "/", "~", "file://", "."):
        with pytest.raises(SightlineError):
            locate(text, root)


# --- reach ----------------------------------------------------------------------------------------

PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.31.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "198.18.0.1",
    "224.0.0.1",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001::7f00:1",
]


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    with pytest.raises(UnreachableError):
        EgressPolicy().addresses(text, 80)
    named = EgressPolicy(resolve=lambda host, port: [text])
    with pytest.raises(UnreachableError):
        named.addresses("innocent.example", 80)


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_that_are_public(text: str) -> None:
    assert EgressPolicy().addresses(text, 80) == [ipaddress.ip_address(text)]


@pytest.mark.parametrize(
    ("rule", "host", "port", "address", "allowed"),
    [
        ("10.0.0.0/8", "10.1.2.3", 80, "10.1.2.3", True),
        ("10.0.0.0/8", "cam.lan", 80, "10.1.2.3", True),
        ("10.0.0.0/8", "10.1.2.3", 80, "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "cam.lan", 80, "11.1.2.3", True),  # public
        ("10.0.0.0/8", "cam.lan", 80, "192.168.0.1", False),
        ("10.1.2.3:554", "10.1.2.3", 554, "10.1.2.3", True),
        ("10.1.2.3:554", "10.1.2.3", 80, "10.1.2.3", False),
        ("[fd00::1]:554", "fd00::1", 554, "fd00::1", True),
        ("[fd00::/8]:554", "x", 555, "fd00::1", False),
        ("fd00::/8", "x", 555, "fd00::1", True),
        ("*.cam.lan", "a.cam.lan", 80, "192.168.0.1", True),
        ("*.Cam.lan", "a.CAM.lan", 80, "192.168.0.1", True),
        ("*.cam.lan", "cam.lan", 80, "192.168.0.1", False),
        ("*.cam.lan", "cam.lan.evil.example", 80, "192.168.0.1", False),
        ("cam.lan:554", "cam.lan", 80, "192.168.0.1", False),
    ],
)
def test_rules(rule: str, host: str, port: int, address: str, allowed: bool) -> None:
    egress = EgressPolicy([rule], resolve=lambda host, port: [address])
    try:
        assert egress.addresses(host, port)
    except UnreachableError:
        assert not allowed
    else:
        assert allowed


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.0/33", "a b", "a:0", "a:99999", "[::1", "1.2.3", "[a]:1", "a/8"],
)
def test_rules_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        Rule.parse(text)


def test_of_several_addresses_only_those_within_reach_are_used() -> None:
    egress = EgressPolicy(resolve=lambda host, port: ["127.0.0.1", "8.8.8.8", "10.0.0.1"])
    assert [str(address) for address in egress.addresses("x.example", 1)] == ["8.8.8.8"]


# --- redaction ------------------------------------------------------------------------------------

SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"rtsp://user:{SECRET}@cam/live",
        f"rtsp://{SECRET}@cam/live",
        f"rtsp://user:{SECRET}@[::1]:554/live",
        f"rtsp://user:a@{SECRET}@cam/live",
        f"rtsp://user:a/{SECRET}@cam/live",
        f"rtsp://user:a#{SECRET}@cam/live",
        f"rtsp://user:a?{SECRET}@cam/live",
        f"RTSP://user:{SECRET}@cam",
        f"http://cam/x?password={SECRET}",
        f"http://cam/x?a=1&PassWord={SECRET}&b=2",
        f"http://cam/x?a=1;pwd={SECRET}",
        f"http://cam/x?%70assword={SECRET}",
        f"http://cam/x?token={SECRET}",
        f"http://cam/x?key={SECRET}",
        f"http://cam/x?auth={SECRET}",
        f"http://cam/x?X-Amz-Signature={SECRET}",
        f"http://cam/x?channel={SECRET}",
        f"http://cam/x?{SECRET}",
        f"http://cam/x?a={SECRET}=b",
        f"http://cam/x#{SECRET}",
        f"http://cam?{SECRET}=1",
        f"rtmp://host/live/{SECRET}",
        f"rtmps://host/live/a/{SECRET}?x",
        f"rtsp://cam/user=admin&password={SECRET}&channel=1/stream.sdp",
        f"rtsp://cam/user=admin_password={SECRET}_channel=1_stream=0.sdp",
        f"rtsp://cam/a:{SECRET}@b",
        f"rtsps://nvr:7441/{SECRET}abcdefgh",
        f"redis://:{SECRET}@redis:6379/0",
    ],
)
def test_secrets_are_taken_out(url: str) -> None:
    for text in (url, f"cannot open '{url}': no", f"{url} and {url}", f'{{"source": "{url}"}}'):
        shown = redacted(text)
        assert SECRET not in shown
        assert redacted(shown) == shown
    line = JsonFormatter("test").format(
        logging.makeLogRecord({"msg": "read %s", "args": (url,), "deep": {"a": [url]}, "url": url})
    )
    assert SECRET not in line
    json.loads(line)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "clip.mp4",
        "no url: here/at all?password=x",
        "http://example.org/a/clip.mp4",
        "rtsp://10.0.0.7:554/Streaming/Channels/101",
        "rtsp://cam/cam/realmonitor?channel=1&subtype=0",
        "rtsp://cam/h264Preview_01_main",
        "file:///media/a.mp4",
        "rtmp://host/live",
        "read http://a.example/x, then http://b.example/y.",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("see https://u:hunter2@shop.example/", True),
        ("https://u:a/b@shop.example/", True),
        ("https://shop.example/p?token=hunter2", True),
        ("https://shop.example/p?a=1&X-Api-Key=hunter2", True),
        ("https://shop.example/p?%74oken=hunter2", True),
        ("https://shop.example/p#access_token=hunter2", True),
        ("https://shop.example/p?id=4711&utm_source=mail", False),
        ("https://shop.example/p?token=", False),
        ("https://bucket.example/p.jpg?X-Amz-Signature=0a1b2c", False),
        ("https://shop.example/a@b?keyboard=de&author=me", False),
        ("a mug, 9 € @ the till?", False),
    ],
)
def test_a_secret_in_an_address_is_seen(text: str, holds: bool) -> None:
    assert holds_secret(text) == holds


def test_redaction_takes_any_text() -> None:
    random.seed(14)
    pieces = ["rtsp://", "http://", "%", "a", *"@:/?&=#[]\\ "]
    for _ in range(20_000):
        text = "".join(random.choices(pieces, k=random.randint(0, 12)))
        assert redacted(redacted(text)) == redacted(text), text
        holds_secret(text)
    assert len(redacted("rtsp://" + "a:b@" * 100_000)) < 100
    for long in ("x" * 300_000, "://" * 100_000, "a://" * 50_000, "http://" + "a/" * 100_000):
        assert redacted(long)
        holds_secret(long)


# --- answers to challenges and RTSP ---------------------------------------------------------------


def test_digest_as_in_its_specification() -> None:
    """RFC 2617, section 3.5, without the quality of protection that asks for a random number."""
    credentials = Credentials("Mufasa", "Circle Of Life")
    nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
    challenge = f'Digest realm="testrealm@host.com", nonce="{nonce}", opaque="5ccc"'
    answer = credentials.answer(["Negotiate", challenge], "GET", "/dir/index.html") or ""
    assert 'response="670fd8c2df070c60b045671b8b24ff02"' in answer
    assert 'opaque="5ccc"' in answer
    assert credentials.answer(["Negotiate", "Digest x"], "GET", "/") is None
    assert credentials.answer(['Basic realm="a"'], "GET", "/") == credentials.basic()


def test_rtsp_survives_any_server() -> None:
    """Bytes put together at random: an UnreachableError, or nothing that a player may not see."""
    random.seed(14)
    pieces = [
        *(b"RTSP/1.0 200 OK\r\n", b"CSeq: 1\r\n", b"CSeq: 2\r\n", b"\r\n", b"\n", b"\r", b"\0"),
        *(b"Location: rtsp://10.0.0.1/\r\n", b"RTSP/1.0 302 Moved\r\n", b"$\0\0\x07RTSP/1.", b"$"),
        *(
            b"Content-Length: 4\r\n",
            b"Content-Length: -1\r\n",
            b"Transport: RTP/AVP;source=10.0.0.1",
        ),
        *(
            b"WWW-Authenticate: Digest nonce=x\r\n",
            b"RTSP/1.0 401 No\r\n",
            b"REDIRECT x RTSP/1.0\r\n",
        ),
    ]
    for _ in range(3000):
        pipe = RtspPipe(SourceUrl.parse("rtsp://u:p@cam/x"), "rtsp://127.0.0.1:1/s")
        pipe.from_player(b"OPTIONS rtsp://127.0.0.1:1/s/x RTSP/1.0\r\nCSeq: 1\r\n\r\n")
        try:
            for _ in range(random.randint(1, 8)):
                pipe.from_server(b"".join(random.choices(pieces, k=random.randint(1, 6))))
        except UnreachableError:
            pass
        assert b"10.0.0.1" not in pipe.to_player
        assert not re.search(rb"(?m)^RTSP/1.0 302", pipe.to_player)


def test_a_part_of_a_recording_says_what_the_ones_before_it_said() -> None:
    recording = """#EXTM3U
#EXT-X-TARGETDURATION:2
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-MAP:URI="clear.mp4",BYTERANGE="100@0"
#EXT-X-KEY:METHOD=AES-128,URI="key"
#EXTINF:2,
#EXT-X-BYTERANGE:50@100
all.mp4
#EXT-X-DISCONTINUITY
#EXTINF:2,
#EXT-X-BYTERANGE:60
all.mp4
#EXTINF:2,
#EXT-X-BYTERANGE:70
all.mp4
#EXT-X-ENDLIST
"""
    first, second = parts_of(recording)
    assert "#EXT-X-BYTERANGE:50@100" in first
    assert "#EXT-X-MEDIA-SEQUENCE:8" in second
    assert second.index("#EXT-X-MAP") < second.index("#EXT-X-KEY")  # the section is not encrypted
    ranges = [line for line in second.splitlines() if "BYTERANGE:" in line]
    assert ranges == ["#EXT-X-BYTERANGE:60@150", "#EXT-X-BYTERANGE:70@210"]
