"""Sign-in by a callback: what is asked, what allows, what denies, and for how long it is kept."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.gateway.auth import callback as module
from services.gateway.auth.authoriser import Approach
from services.gateway.auth.callback import Callback, basic
from services.gateway.auth.caller import VIEWING, Permission
from sightline.errors import UnauthenticatedError, UnavailableError
from sightline.reasons import Reason
from tests.eventually import eventually
from tests.unit.test_gateway_auth import Room


class Decider:
    """The program that is asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.status = 200
        self.allowed = {"view"}
        self.says: Any = None
        self.silent = False

    async def handle(self, request: web.Request) -> web.Response:
        question = await request.json()
        self.asked.append(question)
        if self.silent:
            await asyncio.sleep(30)
        status = self.status if question["action"] in self.allowed else 403
        return web.json_response(self.says, status=status)


@pytest.fixture
async def decider() -> AsyncIterator[tuple[Decider, Callback]]:
    decider = Decider()
    app = web.Application()
    app.router.add_post("/auth", decider.handle)
    async with TestServer(app) as server:
        yield decider, Callback(str(server.make_url("/auth")))


def approach(*permissions: Permission, **of: Any) -> Approach:
    return Approach(permissions or (Permission.VIEW,), **of)


async def test_it_is_asked_as_mediamtx_asks(decider: tuple[Decider, Callback]) -> None:
    program, callback = decider
    program.says = {"name": "alice", "tenant": "red"}
    caller = await callback.caller_of("t0", approach(path="lobby-1", place="10.0.0.9"))
    assert program.asked == [
        {
            "user": "",
            "password": "",
            "token": "t0",
            "ip": "10.0.0.9",
            "action": "view",
            "path": "lobby-1",
            "protocol": "grpc",
        }
    ]
    assert (caller.name, caller.tenant) == ("alice", "red")
    assert caller.may(Permission.VIEW, Room("lobby-1", "red"))
    assert not caller.may(Permission.VIEW, Room("lobby-2", "red")), "it was about one session"
    assert not caller.may(Permission.ASK)


async def test_what_is_allowed_is_what_was_asked_and_granted(
    decider: tuple[Decider, Callback],
) -> None:
    program, callback = decider
    program.allowed = {"view", "watch"}
    caller = await callback.caller_of("t", approach(*VIEWING, path="a[1]*"))
    assert caller.permissions == {Permission.VIEW, Permission.WATCH}
    assert caller.sees(Room("a[1]*")), "a name is no pattern"
    assert not caller.sees(Room("a1b"))
    assert sorted(each["action"] for each in program.asked) == ["ask", "view", "watch"]


async def test_users_with_passwords_are_asked_about(decider: tuple[Decider, Callback]) -> None:
    program, callback = decider
    assert basic("Basic YWxpY2U6czpjcmV0") == ("alice", "s:cret")
    assert basic("Bearer x") == basic("Basic %") == ("", "")
    caller = await callback.caller_of("s:cret", approach(user="alice"))
    assert caller.name == "alice"
    asked = program.asked[0]
    assert (asked["user"], asked["password"], asked["token"]) == ("alice", "s:cret", "")


async def test_answers_are_kept_for_a_moment(
    decider: tuple[Decider, Callback], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, callback = decider
    for _ in range(3):
        await callback.caller_of("t", approach())
    assert len(program.asked) == 1
    await callback.caller_of("t", approach(path="other"))
    await callback.caller_of("other", approach())
    assert len(program.asked) == 3
    monkeypatch.setattr(module, "KEPT_S", 0.0)
    await callback.caller_of("t", approach())
    assert len(program.asked) == 4


async def test_a_credential_of_nobody_is_told_from_one_that_may_not(
    decider: tuple[Decider, Callback],
) -> None:
    program, callback = decider
    program.status = 401
    with pytest.raises(UnauthenticatedError):
        await callback.caller_of("t", approach())
    caller = await callback.caller_of("t", approach(Permission.ADMIN))  # 403
    assert caller.permissions == frozenset()


@pytest.mark.parametrize("how", ["silent", "broken", "redirected", "away"])
async def test_no_answer_denies(
    how: str, decider: tuple[Decider, Callback], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, callback = decider
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    program.silent = how == "silent"
    program.status = {"broken": 503, "redirected": 302}.get(how, 200)
    if how == "away":
        callback = Callback("http://127.0.0.1:1/auth")
    if how == "redirected":
        caller = await callback.caller_of("t", approach())
        assert caller.permissions == frozenset()
        return
    with pytest.raises(UnavailableError) as refused:
        await callback.caller_of("t", approach())
    assert refused.value.reason == Reason.SIGN_IN_AWAY


async def test_who_was_let_in_is_asked_about_again(
    decider: tuple[Decider, Callback], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, callback = decider
    caller = await callback.caller_of("t", approach())
    monkeypatch.setattr(module, "KEPT_S", 0.0)
    monkeypatch.setattr(module, "RECHECK_S", 0.0)
    assert caller.is_current()
    await eventually(lambda: len(program.asked) == 2)
    program.status = 503  # while it is away, what was said holds
    assert caller.is_current()
    await eventually(lambda: len(program.asked) == 3)
    assert caller.is_current()
    program.status, program.allowed = 200, set()
    await eventually(lambda: not caller.is_current())
