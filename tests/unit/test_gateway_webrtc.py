"""The WebRTC port's demultiplexer: whose a packet is, and what strangers cannot make it keep."""

import random
from collections import Counter
from typing import Any, cast

import pytest
from aioice import Connection, stun

from services.gateway.webrtc.demultiplexer import MAX_ADDRESSES, Address, Demultiplexer
from services.gateway.webrtc.port import parse_address
from services.gateway.webrtc.seat import CONSENT_AGAIN, SeatProtocol

KEY = "k" * 24


class End:
    """One lane's end of a member."""

    def datagram_received(self, data: bytes, addr: Any) -> None:
        raise AssertionError("the demultiplexer delivers nothing itself")


class Someone:
    """A member that remembers what it was told."""

    def __init__(self, ufrag: str, lanes: tuple[str, ...] = ("udp4", "tcp")) -> None:
        self.ufrag = ufrag
        self.ends = {lane: End() for lane in lanes}
        self.forgotten: list[tuple[str, Address]] = []
        self.carrying: list[Address] = []

    def proves(self, request: stun.Message) -> bool:
        return request.check_message_integrity(KEY.encode())

    def endpoint(self, lane: str) -> End | None:
        return self.ends.get(lane)

    def carried(self, lane: str, address: Address) -> None:
        self.carrying.append(address)

    def forget(self, lane: str, address: Address) -> None:
        self.forgotten.append((lane, address))


class Table:
    """A demultiplexer with what it dropped and what it answered."""

    def __init__(self, *members: Someone) -> None:
        self.dropped: Counter[str] = Counter()
        self.replies: list[tuple[str, bytes, Address]] = []
        self.of = Demultiplexer(
            lambda reason: self.dropped.update([reason]),
            lambda *reply: self.replies.append(reply),
        )
        for member in members:
            self.of.join(member)


def check(ufrag: str, key: str = KEY, priority: bool = True) -> bytes:
    """A binding request as a peer sends it."""
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    request.attributes["USERNAME"] = f"{ufrag}:them"
    if priority:
        request.attributes["PRIORITY"] = 1
    request.add_message_integrity(key.encode())
    return bytes(request)


async def test_a_peer_that_answers_late_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question of consent, which aioice would ask once."""
    monkeypatch.setattr(stun, "RETRY_RTO", 0.001)
    sent: list[bytes] = []

    class Transport:
        def sendto(self, data: bytes, address: Address) -> None:
            sent.append(data)

    table = Table()
    protocol = SeatProtocol(Connection(ice_controlling=False), table.of)
    protocol.transport = cast(Any, Transport())
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    with pytest.raises(stun.TransactionTimeout):
        await protocol.request(request, HOME, KEY.encode(), retransmissions=0)
    assert len(sent) == 1 + CONSENT_AGAIN


HOME, AWAY = ("192.0.2.1", 5000), ("198.51.100.1", 6000)
MEDIA = b"\x80" + bytes(40)


def test_a_request_with_the_key_opens_its_address_and_nothing_else_does() -> None:
    one, two = Someone("one-ufrag"), Someone("two-ufrag")
    table = Table(one, two)
    assert table.of.route("udp4", MEDIA, HOME) is None
    assert table.of.route("udp4", check("nobody"), HOME) is None
    assert table.of.route("udp4", check("one-ufrag", key="w" * 24), HOME) is None
    assert table.of.route("udp4", check("one-ufrag", priority=False), HOME) is None
    assert table.of.route("udp6", check("one-ufrag"), ("::1", 1)) is None  # it has no such lane
    assert table.of.num_addresses == 0
    assert table.dropped == {
        "unknown_address": 1,
        "unknown_ufrag": 2,
        "wrong_key": 1,
        "malformed": 1,
    }
    assert table.of.route("udp4", check("one-ufrag"), HOME) is one.ends["udp4"]
    assert table.of.route("udp4", check("two-ufrag"), AWAY) is two.ends["udp4"]
    assert table.of.route("udp4", MEDIA, HOME) is one.ends["udp4"]
    assert table.of.route("udp4", MEDIA, AWAY) is two.ends["udp4"]
    assert table.of.route("tcp", MEDIA, HOME) is None  # the same numbers of another protocol
    table.of.check_integrity()


def test_an_address_changes_hands_by_a_request_with_the_key() -> None:
    one, two = Someone("one-ufrag"), Someone("two-ufrag")
    table = Table(one, two)
    table.of.route("udp4", check("one-ufrag"), HOME)
    table.of.route("udp4", check("one-ufrag"), AWAY)
    assert table.of.route("udp4", MEDIA, AWAY) is one.ends["udp4"]
    assert one.carrying == [AWAY]
    table.of.route("udp4", check("two-ufrag", key="w" * 24), HOME)
    assert table.of.route("udp4", MEDIA, HOME) is one.ends["udp4"]
    table.of.route("udp4", check("two-ufrag"), HOME)
    assert table.of.route("udp4", MEDIA, HOME) is two.ends["udp4"]
    assert one.forgotten == [("udp4", HOME)]
    table.of.check_integrity()


def test_a_member_keeps_its_newest_addresses() -> None:
    one = Someone("one-ufrag")
    table = Table(one)
    for port in range(1, 1000):
        table.of.route("udp4", check("one-ufrag"), ("192.0.2.1", port))
        table.of.route("udp4", check("one-ufrag"), HOME)
    assert table.of.num_addresses == MAX_ADDRESSES
    assert table.of.route("udp4", MEDIA, HOME) is one.ends["udp4"]
    assert len(one.forgotten) == 1000 - MAX_ADDRESSES
    table.of.check_integrity()
    assert len(table.of.leave(one)) == MAX_ADDRESSES
    assert table.of.leave(one) == []
    assert (table.of.num_members, table.of.num_addresses) == (0, 0)


def test_a_new_ufrag_takes_the_place_of_the_old_one() -> None:
    one = Someone("old-ufrag")
    table = Table(one)
    table.of.route("udp4", check("old-ufrag"), HOME)
    one.ufrag = "new-ufrag"
    table.of.join(one)
    assert table.of.route("udp4", check("old-ufrag"), AWAY) is None
    assert table.of.route("udp4", MEDIA, HOME) is one.ends["udp4"]  # goes on meanwhile
    assert table.of.route("udp4", check("new-ufrag"), AWAY) is one.ends["udp4"]
    table.of.check_integrity()


def test_an_answer_goes_to_who_asked() -> None:
    one = Someone("one-ufrag")
    table = Table(one)
    answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE)
    assert table.of.route("udp4", bytes(answer), HOME) is None
    table.of.sent(answer.transaction_id, one.ends["udp4"])
    assert table.of.route("udp4", bytes(answer), HOME) is one.ends["udp4"]
    table.of.answered(answer.transaction_id)
    assert table.of.route("udp4", bytes(answer), HOME) is None
    assert table.dropped == {"unknown_answer": 2}


def test_a_stranger_who_asks_hears_where_he_is_in_no_more_bytes() -> None:
    table = Table()
    question = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    table.of.route("udp4", bytes(question), HOME)
    assert table.replies == []
    question.attributes["SOFTWARE"] = "x" * 32
    table.of.route("udp4", bytes(question), HOME)
    ((lane, data, address),) = table.replies
    assert (lane, address) == ("udp4", HOME)
    assert len(data) <= len(bytes(question))
    assert stun.parse_message(data).attributes["XOR-MAPPED-ADDRESS"] == HOME
    table.of.route("tcp", bytes(question), HOME)
    assert len(table.replies) == 1


@pytest.mark.parametrize("seed", range(4))
def test_noise_leaves_nothing_behind_and_disturbs_nobody(seed: int) -> None:
    rng = random.Random(seed)
    one = Someone("one-ufrag")
    table = Table(one)
    table.of.route("udp4", check("one-ufrag"), HOME)
    genuine = check("one-ufrag")
    for number in range(3000):
        noise = bytearray(rng.choice((genuine, rng.randbytes(rng.randrange(80)), MEDIA)))
        for _ in range(rng.randrange(1, 6)):
            if noise:
                noise[rng.randrange(len(noise))] = rng.randrange(256)
        if rng.random() < 0.3:
            noise = noise[: rng.randrange(len(noise) + 1)]
        if noise[: len(genuine) - 8] != genuine[:-8]:  # what follows, FINGERPRINT, proves nothing
            table.of.route("udp4", bytes(noise), ("203.0.113.9", number % 65536))
    assert table.of.num_addresses == 1
    assert table.of.route("udp4", MEDIA, HOME) is one.ends["udp4"]
    assert sum(table.dropped.values()) > 2000
    table.of.check_integrity()


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 0),
        ("192.0.2.1:30189", "192.0.2.1", 30189),
        ("cam.example", "cam.example", 0),
        ("cam.example:1", "cam.example", 1),
        ("2001:db8::1", "2001:db8::1", 0),
        ("[2001:db8::1]", "2001:db8::1", 0),
        ("[2001:db8::1]:9", "2001:db8::1", 9),
    ],
)
def test_addresses_are_read(address: str, host: str, port: int) -> None:
    assert parse_address(address) == (host, port)


@pytest.mark.parametrize("address", ["192.0.2.1:x", "192.0.2.1:70000", "[]:9"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"address|invalid literal"):
        parse_address(address)
