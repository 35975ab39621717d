"""Steps that every WebRTC connection of ours shares: negotiation, later candidates, its end."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from aiortc import RTCPeerConnection
from aiortc.sdp import candidate_from_sdp

from sightline.errors import InvalidArgumentError, SightlineError

log = logging.getLogger(__name__)

MAX_CANDIDATES = 64
ENCODER = ("_next_encoded_frame", "_send_keyframe")  # of aiortc's sender; ours stand in their place


class RestartError(InvalidArgumentError):
    """The other side wants to begin ICE anew."""


@contextlib.asynccontextmanager
async def negotiation(timeout_s: float) -> AsyncIterator[None]:
    """Context in which an offer is answered. Raises InvalidArgumentError for whatever aiortc makes
    of a bad one, and when it takes too long."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except SightlineError:
        raise
    except TimeoutError:
        raise InvalidArgumentError("the negotiation took too long") from None
    except Exception as error:  # aiortc's parser raises whatever a broken line makes it raise
        log.info("offer refused", extra={"reason": f"{type(error).__name__}: {error}"})
        raise InvalidArgumentError("the SDP offer cannot be used") from error


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


async def close_peer(peer: RTCPeerConnection, timeout_s: float) -> None:
    """Close a connection that we sent media by, whatever state it is in, and take back what stood
    in the place of aiortc's encoder: no circle of references is left."""
    try:
        async with asyncio.timeout(timeout_s):
            await peer.close()
    except Exception as error:  # aiortc, of a connection that was half negotiated
        log.info("a WebRTC connection did not close", extra={"reason": type(error).__name__})
        await stop_transports(peer, timeout_s)
    for transceiver in peer.getTransceivers():
        for replaced in ENCODER:
            transceiver.sender.__dict__.pop(replaced, None)


async def stop_transports(peer: RTCPeerConnection, timeout_s: float) -> None:
    """Stop what a failed close left open: sockets, above all."""
    for transceiver in peer.getTransceivers():
        transport = transceiver.receiver.transport
        with contextlib.suppress(Exception):
            async with asyncio.timeout(timeout_s):
                await transceiver.stop()
        if transport is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(timeout_s):
                    await transport.stop()
            with contextlib.suppress(Exception):
                async with asyncio.timeout(timeout_s):
                    await transport.transport.stop()
