"""Whose a packet is that came to the port all WebRTC connections share.

No sockets and no clock: packets go in, the endpoint that takes them comes out. A request of STUN
names its connection (the ufrag) and proves it (the key); only after that is its sender's address
known, by which everything that is not STUN is told apart. So what strangers send grows no table.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from aioice import stun

Address = tuple[str, int]

MAX_ADDRESSES = 16  # of one connection: a peer has a few interfaces, and a NAT some ports for each
_REQUIRED = ("USERNAME", "MESSAGE-INTEGRITY", "PRIORITY")


class Endpoint(Protocol):
    """One connection's end of one lane: udp4, udp6 or tcp."""

    def datagram_received(self, data: bytes, addr: Any) -> None: ...


class Member(Protocol):
    """One connection of those that share the port."""

    ufrag: str

    def proves(self, request: stun.Message) -> bool:
        """Whether the request was made with this connection's key."""

    def endpoint(self, lane: str) -> Endpoint | None: ...

    def carried(self, lane: str, address: Address) -> None:
        """Hear that data, not STUN, came from a known address."""

    def forget(self, lane: str, address: Address) -> None:
        """Hear that an address is no longer this connection's."""


class Demultiplexer:
    """Members by ufrag, by the addresses they proved, and by the requests they sent.

    `dropped` hears the reason of every packet that nobody takes; `reply` sends.
    """

    def __init__(
        self, dropped: Callable[[str], None], reply: Callable[[str, bytes, Address], None]
    ) -> None:
        self._dropped = dropped
        self._reply = reply
        self._members: dict[str, Member] = {}
        self._requests: dict[bytes, Endpoint] = {}
        self._owners: dict[tuple[str, Address], Member] = {}
        self._addresses: dict[Member, OrderedDict[tuple[str, Address], None]] = {}

    @property
    def num_members(self) -> int:
        return len(self._addresses)

    @property
    def num_addresses(self) -> int:
        return len(self._owners)

    def is_taken(self, ufrag: str) -> bool:
        return ufrag in self._members

    def join(self, member: Member) -> None:
        """Take packets for the member from now on; again after its ufrag changed."""
        for ufrag, other in list(self._members.items()):
            if other is member:
                del self._members[ufrag]
        self._members[member.ufrag] = member
        self._addresses.setdefault(member, OrderedDict())

    def leave(self, member: Member) -> list[tuple[str, Address]]:
        """Forget the member; returns lane and address of all that it had, nothing a second time."""
        if self._members.get(member.ufrag) is member:
            del self._members[member.ufrag]
        own = list(self._addresses.pop(member, ()))
        for key in own:
            del self._owners[key]
        return own

    def sent(self, transaction: bytes, endpoint: Endpoint) -> None:
        """Expect the answer to a request."""
        self._requests[transaction] = endpoint

    def answered(self, transaction: bytes) -> None:
        """Expect it no longer."""
        self._requests.pop(transaction, None)

    def route(self, lane: str, data: bytes, address: Address) -> Endpoint | None:
        """Endpoint that the packet is for; None for a packet to drop, which has been counted."""
        if len(data) >= 8 and data[0] < 4 and int.from_bytes(data[4:8], "big") == stun.COOKIE:
            return self._route_stun(lane, data, address)
        member = self._owners.get((lane, address))
        if member is None:
            return self._drop("unknown_address")
        member.carried(lane, address)
        return member.endpoint(lane)

    def _route_stun(self, lane: str, data: bytes, address: Address) -> Endpoint | None:
        try:
            message = stun.parse_message(data)
        except Exception:  # the parser raises whatever a broken attribute makes it raise
            return self._drop("malformed")
        if message.message_class in (stun.Class.RESPONSE, stun.Class.ERROR):
            endpoint = self._requests.get(message.transaction_id)
            return endpoint or self._drop("unknown_answer")
        if message.message_class != stun.Class.REQUEST:
            return self._drop("indication")
        if message.message_method == stun.Method.BINDING and "USERNAME" not in message.attributes:
            return self._reflect(lane, message, data, address)
        if message.message_method != stun.Method.BINDING or any(
            name not in message.attributes for name in _REQUIRED
        ):
            return self._drop("malformed")
        member = self._members.get(message.attributes["USERNAME"].partition(":")[0])
        if member is None:
            return self._drop("unknown_ufrag")
        if not member.proves(message):
            return self._drop("wrong_key")
        endpoint = member.endpoint(lane)
        if endpoint is None:
            return self._drop("unknown_ufrag")
        self._learn(member, lane, address)
        return endpoint

    def _reflect(
        self, lane: str, question: stun.Message, data: bytes, address: Address
    ) -> Endpoint | None:
        """Tell a stranger who asks, like a STUN server, where it is: so the port can be tried. No
        answer is longer than its question, or others would be flooded from here."""
        answer = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.RESPONSE,
            transaction_id=question.transaction_id,
            attributes={"XOR-MAPPED-ADDRESS": address},
        )
        if lane == "tcp" or len(bytes(answer)) > len(data):
            return self._drop("malformed")
        self._reply(lane, bytes(answer), address)
        return None

    def _learn(self, member: Member, lane: str, address: Address) -> None:
        """The address is the member's, whoever had it before: a NAT gives ports out again."""
        key = (lane, address)
        before = self._owners.get(key)
        if before is not None and before is not member:
            self._addresses[before].pop(key, None)
            before.forget(lane, address)
        self._owners[key] = member
        own = self._addresses[member]
        own[key] = None
        own.move_to_end(key)
        if len(own) > MAX_ADDRESSES:
            oldest, _ = own.popitem(last=False)
            del self._owners[oldest]
            member.forget(*oldest)

    def lost(self, lane: str, address: Address) -> None:
        """Forget an address whose stream has closed."""
        member = self._owners.pop((lane, address), None)
        if member is not None:
            self._addresses[member].pop((lane, address), None)

    def _drop(self, reason: str) -> Endpoint | None:
        self._dropped(reason)
        return None

    def check_integrity(self) -> None:
        """Raise AssertionError where the tables disagree."""
        known = {key for own in self._addresses.values() for key in own}
        assert known == set(self._owners)
        assert all(key in self._addresses[member] for key, member in self._owners.items())
        assert all(len(own) <= MAX_ADDRESSES for own in self._addresses.values())
        assert set(self._members.values()) == set(self._addresses)
