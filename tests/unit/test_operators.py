"""Who reads what others rated."""

from types import SimpleNamespace
from typing import Any

import pytest

from services.gateway.api.grpc import is_operator
from services.gateway.auth.caller import ANYBODY, Caller, Permission

ADMIN = frozenset({Permission.ADMIN})


def _context(peer: str, **metadata: str) -> Any:
    sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
    return SimpleNamespace(peer=lambda: peer, invocation_metadata=lambda: sent)


@pytest.mark.parametrize(
    ("caller", "operates"),
    [
        (Caller(name="ann", permissions=ADMIN), True),
        (Caller(name="ann", permissions=ADMIN, tenant="shop"), False),
        (Caller(name="ann", permissions=ADMIN, sessions=("shop-*",)), False),
    ],
)
def test_it_takes_all_sessions_and_no_tenant(caller: Caller, operates: bool) -> None:
    assert is_operator(caller, _context("ipv4:203.0.113.9:5")) is operates


def test_an_open_server_tells_its_own_machine_alone() -> None:
    assert is_operator(ANYBODY, _context("ipv4:127.0.0.1:5"))
    assert is_operator(ANYBODY, _context("ipv6:%5B::1%5D:5"))
    assert not is_operator(ANYBODY, _context("ipv4:203.0.113.9:5"))
    passed_on = _context("ipv4:127.0.0.1:5", x_forwarded_for="203.0.113.9")
    assert not is_operator(ANYBODY, passed_on)
