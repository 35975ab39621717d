"""Callers: who they are, and what each may do to which sessions."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Protocol

from services.common.metrics import REFUSED
from sightline.errors import NotFoundError, PermissionDeniedError, UnauthenticatedError
from sightline.reasons import Reason

KEPT_DIGITS = 40  # of a conversation's id, as it is kept


class Permission(StrEnum):
    """Permission to do something. ADMIN holds the others, and making, changing and deleting
    sessions."""

    PUBLISH = "publish"  # frames by gRPC into sessions whose key one does not have
    VIEW = "view"  # lists, state, pictures and events
    ASK = "ask"  # questions, conversations and speech
    WATCH = "watch"  # standing questions
    ADMIN = "admin"


VIEWING = (Permission.VIEW, Permission.ASK, Permission.WATCH)  # what a viewer's line may come to


class Guarded(Protocol):
    """Session, as permissions know it."""

    @property
    def name(self) -> str: ...

    @property
    def tenant(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody who calls. `sessions` are patterns of names with `*`, `?` and `[…]`.

    A caller of a tenant knows that tenant's sessions only, one without a tenant those of all.
    `is_current` says whether the credential still holds: streams outlive many a token.
    `is_revoked`: whether somebody has taken it away, and with it what was made with it.
    """

    name: str  # "" for whoever comes without a credential
    permissions: frozenset[Permission]
    sessions: tuple[str, ...] = ("*",)
    tenant: str = ""
    is_current: Callable[[], bool] = field(default=lambda: True, compare=False)
    is_revoked: Callable[[], bool] = field(default=lambda: False, compare=False)

    @property
    def signed_in(self) -> bool:
        return bool(self.name)

    def sees(self, session: Guarded) -> bool:
        """Whether a session is there at all for this caller."""
        if self.tenant and session.tenant != self.tenant:
            return False
        return self._matches(session.name)

    def may(self, permission: Permission, session: Guarded | None = None) -> bool:
        """Whether this is allowed: to `session`, or at all where it is to none."""
        granted = permission in self.permissions or Permission.ADMIN in self.permissions
        return granted and (session is None or self.sees(session))

    def check(self, permission: Permission, session: Guarded | None = None) -> None:
        """Raise UnauthenticatedError for a credential that no longer holds, NotFoundError for a
        session that is not there for this caller, PermissionDeniedError without the permission."""
        if not self.is_current():
            raise UnauthenticatedError(
                "the token has expired: sign in again", reason=Reason.TOKEN_EXPIRED
            )
        if session is not None and not self.sees(session):
            raise NotFoundError("no such session", reason=Reason.SESSION_NOT_FOUND)
        if not self.may(permission):
            if not self.signed_in:
                raise UnauthenticatedError(
                    "this server asks for a token", reason=Reason.TOKEN_MISSING
                )
            REFUSED.labels("gateway", "not_permitted").inc()
            raise PermissionDeniedError(
                f"this needs the permission `{permission}`", reason=Reason.NOT_PERMITTED
            )

    def conversation(self, name: str) -> str:
        """The id that a conversation is kept by which this caller calls so; "" stays. A tenant's
        are made of both, so that nobody of another tenant continues, reads or deletes one by
        choosing the same name."""
        if not self.tenant or not name:
            return name
        return hashlib.sha256(f"{self.tenant}\0{name}".encode()).hexdigest()[:KEPT_DIGITS]

    def check_name(self, name: str) -> None:
        """Raise PermissionDeniedError for a name that sessions of this caller cannot have."""
        if not self._matches(name):
            REFUSED.labels("gateway", "not_permitted").inc()
            names = ", ".join(self.sessions)
            raise PermissionDeniedError(
                f"your sessions are named {names}", reason=Reason.NOT_PERMITTED
            )

    def _matches(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.sessions)


# Whoever calls an open server, and whoever calls another one without a credential.
ANYBODY = Caller(name="", permissions=frozenset(Permission))
NOBODY = Caller(name="", permissions=frozenset())


def permissions_of(words: object) -> frozenset[Permission]:
    """Permissions by their names, a list of them or one string with spaces or commas. Raises
    ValueError for what is neither, and for others."""
    names = words.replace(",", " ").split() if isinstance(words, str) else words
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("permissions are a list of names")
    unknown = [name for name in names if name not in list(Permission)]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of the permissions {', '.join(Permission)}")
    return frozenset(map(Permission, names))


def patterns_of(words: object) -> tuple[str, ...]:
    """Patterns of names of sessions: a list or one. Raises ValueError for anything else."""
    patterns = [words] if isinstance(words, str) else words
    if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
        raise ValueError("sessions are a list of patterns")
    return tuple(patterns)
