"""Signatures of calls between gateways: who has not the secret that they share is nobody."""

import hashlib
import hmac
import time
from typing import Any

from google.protobuf.message import Message

from sightline.errors import UnauthenticatedError

METADATA = "sightline-peer"
CLOCKS_S = 30.0  # that the clocks of two gateways may differ, with the time of the call


class Signature:
    """Signs calls and checks those of others. The signature holds for one method, one request, and
    half a minute."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def sign(self, method: str, request: Message) -> tuple[tuple[str, str], ...]:
        """The metadata of a call."""
        at = f"{time.time():.3f}"
        return ((METADATA, f"{at} {self._digest(method, at, request)}"),)

    def check(self, method: str, request: Message, metadata: Any) -> None:
        """Raise UnauthenticatedError for a call that none of our gateways made, or long ago."""
        values = [value for name, value in metadata or () if name == METADATA]
        at, _, digest = (values[0] if len(values) == 1 else "").partition(" ")
        expected = self._digest(method, at, request)
        if not hmac.compare_digest(expected.encode(), digest.encode()) or not _is_recent(at):
            raise UnauthenticatedError("only gateways of this suite may call here")

    def _digest(self, method: str, at: str, request: Message) -> str:
        body = request.SerializeToString(deterministic=True)
        signed = b"\n".join((method.encode(), at.encode(), body))
        return hmac.new(self._secret, signed, hashlib.sha256).hexdigest()


def _is_recent(at: str) -> bool:
    try:
        return abs(time.time() - float(at)) < CLOCKS_S
    except ValueError:
        return False
