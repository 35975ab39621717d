"""Steps that every WebRTC connection of ours shares: later candidates, and its end."""

import asyncio
import contextlib

from aiortc import RTCPeerConnection
from aiortc.sdp import candidate_from_sdp

from sightline.errors import InvalidArgumentError

MAX_CANDIDATES = 64


class RestartError(InvalidArgumentError):
    """The other side wants to begin ICE anew."""


async def add_candidates(peer: RTCPeerConnection, fragment: str, num_before: int = 0) -> int:
    """Take further candidates (RFC 8840), after so many; returns how many there are. Raises
    InvalidArgumentError, and RestartError for an ICE restart."""
    remote = peer.remoteDescription.sdp
    mid, count = "", num_before
    for line in fragment.replace("\r\n", "\n").split("\n"):
        name, _, value = line.partition(":")
        if name == "a=ice-ufrag" and f"a=ice-ufrag:{value}\r\n" not in remote:
            raise RestartError("ICE restarts are not supported: connect anew")
        if name == "a=mid":
            mid = value.strip()
        if name != "a=candidate" or ".local " in value:
            continue
        count += 1
        if count > MAX_CANDIDATES:
            raise InvalidArgumentError(f"a connection has at most {MAX_CANDIDATES} candidates")
        try:
            candidate = candidate_from_sdp(value)
            candidate.sdpMid, candidate.sdpMLineIndex = mid or None, 0
            await peer.addIceCandidate(candidate)
        except Exception as error:  # whatever a broken line makes it raise
            raise InvalidArgumentError("a candidate cannot be read") from error
    return count


async def stop_transports(peer: RTCPeerConnection, timeout_s: float) -> None:
    """Stop what a failed close left open: sockets, above all."""
    for transceiver in peer.getTransceivers():
        transport = transceiver.receiver.transport
        with contextlib.suppress(Exception):
            await asyncio.wait_for(transceiver.stop(), timeout_s)
        if transport is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(transport.stop(), timeout_s)
            with contextlib.suppress(Exception):
                await asyncio.wait_for(transport.transport.stop(), timeout_s)
