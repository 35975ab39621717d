"""Requests for a session that are safe to repeat, at whichever gateway."""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Self

from services.gateway.auth.caller import Caller
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2

KEPT_S = 600.0  # that a request is remembered
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{8,128}")


@dataclass(frozen=True, slots=True)
class AskedOnce:
    """A request with a `request_id`. `id`: digest of whose it is and of that; `what`: of all that
    it asks for, to tell a repetition from a mistake. `key`: for publishers, where the request names
    none; the same at every gateway that knows the `secret`, "" without one."""

    id: str
    what: str
    key: str

    @classmethod
    def of(
        cls,
        request: gateway_pb2.CreateSessionRequest,
        caller: Caller,
        place: str,
        secret: str | None,
    ) -> Self:
        """Raises InvalidArgumentError for a `request_id` that is none. Who signs in is the same
        caller everywhere, who does not is one by the place that the request comes from."""
        if not _REQUEST_ID.fullmatch(request.request_id):
            raise InvalidArgumentError(
                "a request_id has 8 to 128 characters of A-Z a-z 0-9 _ . : -"
            )
        whose = "" if caller.signed_in else place
        parts = repr((caller.tenant, caller.name, whose, request.request_id)).encode()
        what = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        key = ""
        if secret:
            digest = hmac.new(secret.encode(), b"key of " + parts, hashlib.sha256).digest()
            key = base64.urlsafe_b64encode(digest[:18]).decode()
        return cls(id=hashlib.sha256(parts).hexdigest(), what=what, key=key)
