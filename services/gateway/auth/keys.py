"""Keys in a file: one line of JSON for each, with a hash instead of the key.

Keys are made by us and hold 256 random bits, so that a plain hash keeps them: nobody can try them
through, as they could passwords.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from services.common.fresh_file import FreshFiles
from services.gateway.auth.authoriser import ANYHOW, Approach, read_lines
from services.gateway.auth.caller import Caller, patterns_of, permissions_of
from sightline.errors import UnauthenticatedError
from sightline.reasons import Reason

PREFIX = "sl_"
_HASH = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"name", "sha256", "permissions", "sessions", "tenant"}


@dataclass(frozen=True, slots=True)
class _Key:
    """One line: the hash of a key, and who has it."""

    digest: str
    caller: Caller


class Keys:
    """The authoriser by a file of keys, which is read again when it changes: a key is rotated by
    adding the new one, and taking the old one out later."""

    wanted = "token"

    def __init__(self, path: Path) -> None:
        """Raises OSError and ValueError for a file that cannot be used."""
        self._file = FreshFiles((path,), lambda: read_keys(path))

    async def caller_of(self, credential: str, approach: Approach = ANYHOW) -> Caller:
        """Every key is compared, each in constant time."""
        found = self._find(_digest(credential))
        if found is None:
            raise UnauthenticatedError("no such token", reason=Reason.TOKEN_INVALID)
        key = found  # what the line says now, until it says something else
        return replace(
            key.caller,
            is_current=lambda: self._find(key.digest) == key,
            is_revoked=lambda: self._find(key.digest) != key,
        )

    def _find(self, digest: str) -> _Key | None:
        found = None
        for key in self._file.value():
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def read_keys(path: Path) -> list[_Key]:
    """The keys of a file. Raises OSError, and ValueError that names the line."""
    keys = []
    for number, line in read_lines(path):
        try:
            keys.append(_key_of(line))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if len({key.digest for key in keys}) != len(keys):
        raise ValueError("two lines have the same sha256")
    return keys


def new_key(
    name: str, permissions: Sequence[str], sessions: Sequence[str] = ("*",), tenant: str = ""
) -> tuple[str, str]:
    """A new key, and the line to put into the file. Raises ValueError for what no line may say."""
    key = PREFIX + secrets.token_urlsafe(32)
    entry = {
        "name": name,
        "sha256": _digest(key),
        "permissions": list(permissions),
        "sessions": list(sessions),
        "tenant": tenant,
    }
    line = json.dumps(entry, ensure_ascii=False)
    _key_of(line)
    return key, line


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def _key_of(line: str) -> _Key:
    entry = json.loads(line)
    if not isinstance(entry, dict):
        raise ValueError("a key is a JSON object")
    if unknown := sorted(set(entry) - _FIELDS):
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(sorted(_FIELDS))}")
    name, digest, tenant = (entry.get(each, "") for each in ("name", "sha256", "tenant"))
    if not (isinstance(name, str) and name):
        raise ValueError("a key has a name")
    if not (isinstance(digest, str) and _HASH.fullmatch(digest)):
        raise ValueError("sha256 is the key's hash, 64 digits of 0-9 a-f")
    if not isinstance(tenant, str):
        raise ValueError("a tenant is a string")
    caller = Caller(
        name=name,
        permissions=permissions_of(entry.get("permissions")),
        sessions=patterns_of(entry.get("sessions", ["*"])),
        tenant=tenant,
    )
    return _Key(digest, caller)
