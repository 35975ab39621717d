"""Strangers at the HTTP interface: who brings no key, and pages of other sites."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.gateway.auth.caller import Caller, Permission
from services.gateway.auth.keys import new_key
from services.gateway.rules.webhooks import _is_of
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import peer_pb2
from tests.unit.gateway_parts import KEY
from tests.unit.http_parts import Client, served

FOR_ALL = {"/api/info", "/api/uploads", "/openapi.json", "/docs"}  # GET of these needs no key


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A file of keys, of which the tests bring none."""
    file = tmp_path / "keys"
    file.write_text(new_key("alice", ["admin"])[1] + "\n")
    return file


async def _operations(client: Client) -> Iterator[tuple[str, str]]:
    api = await (await client.get("/openapi.json")).json()
    return iter([(method, path) for path, each in api["paths"].items() for method in each])


async def test_no_operation_is_open_to_who_brings_no_key(keys: Path) -> None:
    async with served(auth="keys", auth_keys=keys) as (parts, client):
        session = await parts.push_session(name="kitchen")
        for method, path in await _operations(client):
            if method == "get" and path in FOR_ALL:
                continue
            where = path.replace("{session}", "kitchen").replace("{", "").replace("}", "")
            for headers in ({}, {"Authorization": "Bearer sl_wrong"}):
                reply = await client.request(method, where, headers=headers, json={})
                assert reply.status == 401, (method, path, await reply.text())
        assert parts.sessions.all() == [session]


async def test_strangers_do_not_learn_which_sessions_there_are(keys: Path) -> None:
    """The status of a push without the right key told a name that exists from another."""
    async with served(auth="keys", auth_keys=keys) as (parts, client):
        of_file = pb.CreateSessionRequest(source="clip.mp4", options=pb.SessionOptions(name="clip"))
        await parts.sessions.create(of_file)
        await parts.push_session(name="door", key="another-key-1")
        await parts.push_session(name="door")  # perhaps of another tenant
        told = set()
        for name in ("clip", "door", "none"):
            for offered in ({}, {"Sightline-Key": "wrong-key-1"}):
                reply = await client.post(f"/api/sessions/{name}/frames", headers=offered)
                told.add((reply.status, (await reply.json())["reason"]))
        assert told == {(401, "WRONG_KEY")}
        right = {"Sightline-Key": KEY}
        assert (await client.post("/api/sessions/clip/frames", headers=right)).status == 401
        # With the key they come in, whoever else has a session of that name.
        assert (await client.post("/api/sessions/door/frames", headers=right)).status == 400


@pytest.mark.parametrize(
    ("sessions", "tenant", "theirs"),
    [
        (("*",), "", True),
        (("*",), "north", True),
        (("*",), "south", False),
        (("lobby-*",), "", False),
        (("lobby-*", "door-*"), "north", True),
        (("lobby-*",), "north", False),
    ],
)
def test_a_webhook_is_of_who_may_see_all_that_it_tells(
    sessions: tuple[str, ...], tenant: str, theirs: bool
) -> None:
    record = peer_pb2.WebhookRecord(tenant="north", sessions=["lobby-*", "door-*"])
    rights: dict[str, Any] = {"permissions": frozenset(Permission), "sessions": sessions}
    assert _is_of(record, Caller(name="x", tenant=tenant, **rights)) is theirs


async def test_an_allowed_site_may_do_all_that_there_is() -> None:
    friend = {"Origin": "https://friend.example"}
    async with served(allowed_origins=(friend["Origin"],)) as (_, client):
        reply = await client.options("/api/sessions", headers=friend)
        methods = set(reply.headers["Access-Control-Allow-Methods"].split(", "))
        headers = reply.headers["Access-Control-Allow-Headers"].split(", ")
        wanted = {method.upper() for method, _ in await _operations(client)}
    assert wanted <= methods
    assert {"Authorization", "*"} <= set(headers)  # the star does not hold for that one
