"""The authoriser: from what a caller brings to who it is."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.common.log import AUDIT
from services.gateway.auth.caller import ANYBODY, Caller, Permission

MAX_CREDENTIAL_CHARACTERS = 8192
_audit = logging.getLogger(AUDIT)


@dataclass(frozen=True, slots=True)
class Approach:
    """Approach of a caller: from which address, by which protocol, to do what to which session.
    `path`: its name, "" where it is about none. `user`: whose password the credential is, if it is
    one."""

    permissions: tuple[Permission, ...] = (Permission.VIEW,)
    path: str = ""
    place: str = ""
    protocol: str = "grpc"
    user: str = ""


ANYHOW = Approach()  # to authorisers that know callers by their credential alone


class Authoriser(Protocol):
    """Knows callers by their credential. `wanted` is what clients are told to bring: "" or
    "token"."""

    wanted: str

    async def caller_of(self, credential: str, approach: Approach) -> Caller:
        """Raises UnauthenticatedError for a credential of nobody."""
        ...


class Open:
    """Lets everybody do everything."""

    wanted = ""

    async def caller_of(self, credential: str, approach: Approach) -> Caller:
        return ANYBODY


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of a file with their numbers, but for empty ones and those that begin with `#`. Raises
    OSError, and ValueError for what is no text."""
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return [(number, line) for number, line in lines if line.strip() and line.strip()[0] != "#"]


def audit(caller: Caller, what: str, session: str) -> None:
    """Note who did what to which session. On an open server nobody has a name to be noted."""
    if caller.signed_in:
        fields = {"who": caller.name, "tenant": caller.tenant, "what": what, "session": session}
        _audit.info("audit", extra=fields)
