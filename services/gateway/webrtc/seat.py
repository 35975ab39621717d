"""One aioice connection's place at the shared port.

aioice opens a socket for every connection and address. Here its host candidates are those of the
port, and its protocols send by the port's sockets; the rest of ICE stays aioice's. That takes some
of its private attributes, which `WebRtcPort` looks for before it starts.
"""

from collections.abc import Callable, Mapping
from typing import Any

from aioice import Candidate, Connection, stun
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import CandidatePair, StunProtocol
from aioice.utils import random_string

from services.gateway.webrtc.demultiplexer import Address, Demultiplexer, Endpoint

UFRAG_CHARACTERS = 8
PASSWORD_CHARACTERS = 24
CONSENT_AGAIN = 2  # times: an answer may take 0.5 + 1 + 2 s
TCP_PREFERENCE = 8191  # below every UDP candidate: TCP is for where UDP is blocked (RFC 6544, 4.2)

MAX_UNREAD = 4096  # packets of a connection; media is read at once, but not before its encryption
UNREAD = "unread"  # the reason of those beyond

Send = Callable[[bytes, Address], None]


class _Inbox:
    """What came by a connection and nobody has read yet, of which aioice would keep any number. It
    stands before the two methods by which packets come to an aioice connection and are read."""

    def __init__(self, connection: Connection, dropped: Callable[[str], None]) -> None:
        self._dropped = dropped
        self._num_unread = 0
        self._take, self._read = connection.data_received, connection.recvfrom
        connection.data_received = self.data_received  # type: ignore[method-assign]
        connection.recvfrom = self.recvfrom  # type: ignore[method-assign]

    def data_received(self, data: bytes, component: int) -> None:
        if self._num_unread >= MAX_UNREAD:
            self._dropped(UNREAD)
            return
        self._num_unread += 1
        self._take(data, component)

    async def recvfrom(self) -> tuple[bytes, int]:
        packet = await self._read()
        self._num_unread -= 1
        return packet


class _PassiveTcp(Candidate):
    """A candidate that others connect to, and that connects to nobody."""

    def can_pair_with(self, other: Candidate) -> bool:
        return False


class _Lane:
    """What aioice takes for the transport of a socket of its own."""

    def __init__(self, send: Send, closed: Callable[[], None]) -> None:
        self._send = send
        self._closed = closed

    def sendto(self, data: bytes, address: Address) -> None:
        self._send(data, address)

    def close(self) -> None:
        self._closed()


class SeatProtocol(StunProtocol):
    """aioice's protocol, whose requests are known to the demultiplexer while they wait.

    Whether the peer is still there (RFC 7675) aioice asks once, and takes an answer that comes
    later than half a second for none: six in a row, and a publisher behind a slow uplink, or of a
    busy machine, was cut off after half a minute. Here each is asked again.
    """

    def __init__(self, connection: Connection, demultiplexer: Demultiplexer) -> None:
        super().__init__(connection)
        self._demultiplexer = demultiplexer

    async def request(
        self,
        request: stun.Message,
        addr: Address,
        integrity_key: bytes | None = None,
        retransmissions: int | None = None,
    ) -> tuple[stun.Message, Address]:
        if retransmissions == 0:
            retransmissions = CONSENT_AGAIN
        self._demultiplexer.sent(request.transaction_id, self)
        try:
            return await super().request(request, addr, integrity_key, retransmissions)
        finally:
            self._demultiplexer.answered(request.transaction_id)


class Seat:
    """A member of the demultiplexer. `lanes`: how each lane sends; `hosts`: lane and address of
    every candidate to offer; `forgotten` hears of addresses that are no longer its own, `dropped`
    of the reason of each packet that is thrown away unread."""

    def __init__(
        self,
        connection: Connection,
        demultiplexer: Demultiplexer,
        lanes: Mapping[str, Send],
        hosts: list[tuple[str, Address]],
        forgotten: Callable[[str, Address], None],
        dropped: Callable[[str], None],
    ) -> None:
        self._connection: Any = connection
        _Inbox(connection, dropped)
        self._demultiplexer = demultiplexer
        self._lanes = lanes
        self._hosts = hosts
        self._forgotten = forgotten
        self._protocols: dict[str, SeatProtocol] = {}
        # By itself aioice would gather hosts, reflexive and relayed candidates here.
        self._gather_others = self._connection.get_component_candidates
        self._connection.get_component_candidates = self._gather  # type: ignore[method-assign]
        # A ufrag that no other connection has, and a key of its own.
        ufrag = random_string(UFRAG_CHARACTERS)
        while self._demultiplexer.is_taken(ufrag):
            ufrag = random_string(UFRAG_CHARACTERS)
        self.ufrag = ufrag
        self._connection._local_username = ufrag
        self._connection._local_password = random_string(PASSWORD_CHARACTERS)

    async def _gather(
        self, component: int, addresses: list[str], timeout: int = 5
    ) -> list[Candidate]:
        """Candidates at the port, and those of a TURN server. A STUN server is not asked: the
        address by which others reach the port is configured."""
        candidates = []
        for number, (lane, (host, port)) in enumerate(self._hosts):
            tcp = lane == "tcp"
            candidate = (_PassiveTcp if tcp else Candidate)(
                foundation=candidate_foundation("host", "tcp" if tcp else "udp", host),
                component=component,
                transport="tcp" if tcp else "udp",
                priority=candidate_priority(
                    component, "host", (TCP_PREFERENCE if tcp else 65535) - number
                ),
                host=host,
                port=port,
                type="host",
                tcptype="passive" if tcp else None,
            )
            candidates.append(candidate)
            if lane not in self._protocols:
                self._protocols[lane] = self._protocol(lane, candidate)
        self._connection._protocols += self._protocols.values()
        self._demultiplexer.join(self)
        return [*candidates, *await self._gather_others(component, [], timeout)]

    def _protocol(self, lane: str, candidate: Candidate) -> SeatProtocol:
        protocol = SeatProtocol(self._connection, self._demultiplexer)
        protocol.local_candidate = candidate

        def closed() -> None:
            for address in self._demultiplexer.leave(self):
                self._forgotten(*address)
            protocol.connection_lost(None)

        transport: Any = _Lane(self._lanes[lane], closed)
        protocol.connection_made(transport)
        return protocol

    # --- for the demultiplexer ----------------------------------------------------------------

    def proves(self, request: stun.Message) -> bool:
        key = self._connection._local_password.encode()
        return request.check_message_integrity(key)

    def endpoint(self, lane: str) -> Endpoint | None:
        return self._protocols.get(lane)

    def carried(self, lane: str, address: Address) -> None:
        """Answer where the media comes from: a peer's NAT gave it another port, or its phone
        another network. The new address has been checked both ways, or nothing is changed."""
        chosen = self._connection._nominated.get(1)
        if chosen is None or chosen.remote_addr == address:
            return
        for pair in self._connection._check_list:
            if (
                pair.remote_addr == address
                and pair.protocol is self._protocols.get(lane)
                and pair.state is CandidatePair.State.SUCCEEDED
            ):
                pair.nominated = True
                self._connection._nominated[1] = pair
                return

    def forget(self, lane: str, address: Address) -> None:
        """aioice keeps every address it heard of; those beyond the bound are taken from it."""
        connection = self._connection
        chosen = connection._nominated.get(1)
        gone = [
            pair
            for pair in connection._check_list
            if pair.remote_addr == address and pair is not chosen
        ]
        for pair in gone:
            if pair.task is not None:
                pair.task.cancel()
            connection._check_list.remove(pair)
            if pair.remote_candidate in connection._remote_candidates:
                connection._remote_candidates.remove(pair.remote_candidate)
        self._forgotten(lane, address)
