"""Sign-in: keys in a file, tokens of a secret and of an identity provider, and what they allow."""

import base64
import hashlib
import hmac
import json
import random
import secrets
import string
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import rsa

from services.common.config import ConfigError
from services.common.fresh_file import LOOK_S, FreshFiles
from services.gateway.auth import jwks
from services.gateway.auth.caller import ANYBODY, NOBODY, Caller, Permission
from services.gateway.auth.keys import Keys, new_key
from services.gateway.auth.sign_in import authoriser_of
from services.gateway.auth.tokens import Tokens
from services.gateway.config import GatewayConfig
from sightline.errors import (
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from sightline.reasons import Reason
from tests.processes import REPOSITORY

SECRET = "a secret that is long enough for HS256"


@dataclass(frozen=True)
class Room:
    """A session, as far as permissions go."""

    name: str = "lobby-1"
    tenant: str = ""


def caller(*permissions: Permission, **of: Any) -> Caller:
    return Caller(name="alice", permissions=frozenset(permissions), **of)


# --- permissions ----------------------------------------------------------------------------


@pytest.mark.parametrize("permission", list(Permission))
def test_a_permission_allows_itself_alone_but_for_admin(permission: Permission) -> None:
    allowed = {each for each in Permission if caller(permission).may(each, Room())}
    assert allowed == (set(Permission) if permission is Permission.ADMIN else {permission})
    for each in set(Permission) - allowed:
        with pytest.raises(PermissionDeniedError) as caught:
            caller(permission).check(each, Room())
        assert caught.value.reason == Reason.NOT_PERMITTED


@pytest.mark.parametrize(
    ("patterns", "name", "seen"),
    [
        (("*",), "lobby-1", True),
        (("lobby-*",), "lobby-1", True),
        (("lobby-*",), "Lobby-1", False),
        (("lobby-*",), "my-lobby-1", False),
        (("lobby-?",), "lobby-12", False),
        (("lobby-[12]",), "lobby-2", True),
        (("a", "lobby-1"), "lobby-1", True),
        ((), "lobby-1", False),
    ],
)
def test_sessions_outside_of_the_pattern_are_not_there(
    patterns: tuple[str, ...], name: str, seen: bool
) -> None:
    alice = caller(Permission.ADMIN, sessions=patterns)
    assert alice.sees(Room(name)) is seen
    assert alice.may(Permission.VIEW, Room(name)) is seen
    if not seen:
        with pytest.raises(NotFoundError):
            alice.check(Permission.VIEW, Room(name))
        with pytest.raises(PermissionDeniedError):
            alice.check_name(name)


def test_a_tenant_knows_its_own_sessions_alone() -> None:
    rooms = [Room(tenant=tenant) for tenant in ("", "red", "blue")]
    assert [caller(tenant="red").sees(room) for room in rooms] == [False, True, False]
    assert all(caller().sees(room) for room in rooms)


def test_who_brings_nothing_is_asked_for_a_token() -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        NOBODY.check(Permission.VIEW)
    assert caught.value.reason == Reason.TOKEN_MISSING
    ANYBODY.check(Permission.ADMIN, Room())


# --- keys -----------------------------------------------------------------------------------


def keys_of(path: Path, *lines: str) -> Keys:
    path.write_text("\n".join(["# keys of a test", "", *lines]))
    return Keys(path)


async def test_a_key_is_known_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key, line = new_key("alice", ["view", "ask"], ["lobby-*"], "red")
    assert key not in line
    keys = keys_of(path, new_key("bob", ["admin"])[1], line)
    alice = await keys.caller_of(key)
    assert (alice.name, alice.tenant, alice.sessions) == ("alice", "red", ("lobby-*",))
    assert alice.permissions == {Permission.VIEW, Permission.ASK}
    digest = json.loads(line)["sha256"]
    for wrong in ("", key[:-1], key + "x", key.upper(), digest, "\udcff", "x" * 100_000):
        with pytest.raises(UnauthenticatedError) as caught:
            await keys.caller_of(wrong)
        assert caught.value.reason == Reason.TOKEN_INVALID


async def test_random_keys_are_nobodys(tmp_path: Path) -> None:
    keys = keys_of(tmp_path / "keys", new_key("alice", ["admin"])[1])
    rng = random.Random(5)
    for _ in range(2000):
        length = rng.randrange(80)
        with pytest.raises(UnauthenticatedError):
            await keys.caller_of("".join(rng.choices(string.printable, k=length)))


async def test_keys_rotate_while_callers_are_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.common.fresh_file.LOOK_S", 0.0)
    path = tmp_path / "keys"
    (old, old_line), (new, new_line) = (new_key("alice", ["view"]) for _ in range(2))
    keys = keys_of(path, old_line)
    before = await keys.caller_of(old)
    path.write_text(f"{old_line}\n{new_line}\n")
    assert (await keys.caller_of(new)).name == (await keys.caller_of(old)).name == "alice"
    assert before.is_current()
    path.write_text(f"{new_line}\n")
    with pytest.raises(UnauthenticatedError):
        await keys.caller_of(old)
    assert not before.is_current()
    with pytest.raises(UnauthenticatedError) as caught:
        before.check(Permission.VIEW)
    assert caught.value.reason == Reason.TOKEN_EXPIRED
    path.write_text("nonsense\n")  # half written, or wrong: what was read before holds
    assert (await keys.caller_of(new)).is_current()
    path.unlink()
    assert (await keys.caller_of(new)).is_current()


async def test_a_caller_with_fewer_permissions_signs_in_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.common.fresh_file.LOOK_S", 0.0)
    path = tmp_path / "keys"
    key, line = new_key("alice", ["view", "ask"])
    before = await keys_of(path, line).caller_of(key)
    assert before.is_current()
    path.write_text(line.replace(', "ask"', ""))
    assert not before.is_current()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": ""}, "name"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"sha256": None}, "sha256"),
        ({"permissions": ["fly"]}, "fly"),
        ({"permissions": None}, "permissions"),
        ({"permissions": [1]}, "permissions"),
        ({"sessions": 5}, "sessions"),
        ({"tenant": 5}, "tenant"),
        ({"sesions": ["lobby"]}, "sesions"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    entry = json.loads(new_key("alice", ["view"])[1]) | change
    with pytest.raises(ValueError, match=f"line 3: .*{why}"):
        keys_of(tmp_path / "keys", json.dumps(entry))


def test_files_that_cannot_be_used_refuse_to_start(tmp_path: Path) -> None:
    path = tmp_path / "file"
    config = GatewayConfig(auth="keys", auth_keys=path)
    with pytest.raises(ConfigError, match="GATEWAY_AUTH_KEYS"):
        authoriser_of(config)
    path.write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match="GATEWAY_AUTH_KEYS"):
        authoriser_of(config)
    path.write_text("short")
    with pytest.raises(ConfigError, match=r"GATEWAY_AUTH_JWT_SECRET.*32 bytes"):
        authoriser_of(GatewayConfig(auth="jwt", auth_jwt_secret=path))


def test_the_program_that_makes_keys_makes_ones_that_are_read(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.gateway.auth", "--name", "käthe"]
    ran = subprocess.run(
        [*command, "--permissions", "view,watch", "--sessions", "a*", "--sessions", "b*"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    entry = json.loads(ran.stdout)
    assert entry["sha256"] == hashlib.sha256(ran.stderr.strip().encode()).hexdigest()
    assert entry["sessions"] == ["a*", "b*"]
    keys_of(tmp_path / "keys", ran.stdout)
    refused = subprocess.run(
        [*command, "--permissions", "fly"], cwd=REPOSITORY, capture_output=True, timeout=60
    )
    assert refused.returncode == 2
    assert not refused.stdout


def test_a_file_is_looked_at_once_a_second(tmp_path: Path) -> None:
    path, now_s = tmp_path / "file", [0.0]
    path.write_text("1")
    files = FreshFiles((path,), lambda: int(path.read_text()), lambda: now_s[0])
    path.write_text("23")
    assert files.value() == 1
    now_s[0] += LOOK_S
    assert files.value() == 23


# --- tokens ---------------------------------------------------------------------------------


def claims(**others: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": time.time() + 60, "permissions": ["view"]} | others


def signed(key: Any = SECRET, algorithm: str = "HS256", **others: Any) -> str:
    return jwt.encode(claims(**others), key, algorithm=algorithm)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    return path


async def test_a_token_says_who_and_what(secret: Path) -> None:
    tokens = Tokens(secret=secret)
    alice = await tokens.caller_of(signed(sessions="lobby-*", tenant="red"))
    assert (alice.name, alice.tenant, alice.sessions) == ("alice", "red", ("lobby-*",))
    assert alice.permissions == {Permission.VIEW}
    scope = "openid sightline:ask sightline:watch sightline:fly view"
    del (others := claims(scope=scope))["permissions"]
    alice = await tokens.caller_of(jwt.encode(others, SECRET, algorithm="HS256"))
    assert alice.permissions == {Permission.ASK, Permission.WATCH}
    assert alice.sessions == ("*",)


async def _refused(tokens: Tokens, token: str, reason: Reason = Reason.TOKEN_INVALID) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        await tokens.caller_of(token)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "change",
    [
        {"sub": ""},
        {"sub": None},
        {"sub": 5},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": time.time() + 3600},
        {"permissions": ["fly"]},
        {"permissions": {"view": True}},
        {"sessions": 5},
        {"sessions": [5]},
        {"tenant": ["red"]},
    ],
)
async def test_absurd_claims_are_nobodys(secret: Path, change: dict[str, Any]) -> None:
    entry = {key: value for key, value in claims(**change).items() if value is not None}
    body = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256"}, entry)
    ]
    signature = hmac.digest(SECRET.encode(), b".".join(body), "sha256")
    body.append(base64.urlsafe_b64encode(signature).rstrip(b"="))
    await _refused(Tokens(secret=secret), b".".join(body).decode())


async def test_tokens_expire_also_while_they_are_used(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(secret=secret)
    await _refused(tokens, signed(exp=time.time() - 60), Reason.TOKEN_EXPIRED)
    alice = await tokens.caller_of(signed())
    alice.check(Permission.VIEW)
    now_s = time.time()
    monkeypatch.setattr("services.gateway.auth.tokens.time.time", lambda: now_s + 120)
    with pytest.raises(UnauthenticatedError) as caught:
        alice.check(Permission.VIEW)
    assert caught.value.reason == Reason.TOKEN_EXPIRED


async def test_audience_and_issuer_are_looked_at(secret: Path) -> None:
    tokens = Tokens(secret=secret, audience="sightline", issuer="us")
    assert (await tokens.caller_of(signed(aud="sightline", iss="us"))).name == "alice"
    assert (await tokens.caller_of(signed(aud=["x", "sightline"], iss="us"))).name == "alice"
    for others in ({}, {"aud": "x", "iss": "us"}, {"aud": "sightline", "iss": "x"}, {"iss": "us"}):
        await _refused(tokens, signed(**others))
    assert (await Tokens(secret=secret).caller_of(signed(aud="x"))).name == "alice"


async def test_the_token_does_not_choose_how_it_is_checked(secret: Path) -> None:
    tokens = Tokens(secret=secret)
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    await _refused(tokens, jwt.encode(claims(), None, algorithm="none"))
    await _refused(tokens, signed(SECRET * 2, "HS512"))
    await _refused(tokens, signed(private, "RS256"))
    header, body, signature = signed().split(".")
    for token in (f"{header}.{body}.", f"{header}.{body}", f".{body}.{signature}", header, "", "é"):
        await _refused(tokens, token)
    flipped = base64.urlsafe_b64encode(json.dumps(claims(permissions=["admin"])).encode())
    await _refused(tokens, f"{header}.{flipped.decode().rstrip('=')}.{signature}")
    await _refused(tokens, signed(padding="x" * 9000))


async def test_random_tokens_are_nobodys(secret: Path) -> None:
    tokens, rng, good = Tokens(secret=secret), random.Random(6), signed()
    for _ in range(500):
        wrong = list(good)
        where = rng.randrange(len(wrong) - 1)  # the last character holds bits that say nothing
        wrong[where] = rng.choice([each for each in string.printable if each != wrong[where]])
        await _refused(tokens, "".join(wrong))
        await _refused(tokens, ".".join(secrets.token_urlsafe(20) for _ in range(3)))


async def test_a_secret_rotates(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.fresh_file.LOOK_S", 0.0)
    tokens, other = Tokens(secret=secret), SECRET[::-1]
    await _refused(tokens, signed(other))
    _write(secret, f"{other}\n{SECRET}\n")
    assert (await tokens.caller_of(signed(other))).name == "alice"
    assert (await tokens.caller_of(signed())).name == "alice"
    _write(secret, other)
    await _refused(tokens, signed())


def _write(path: Path, text: str) -> None:
    path.write_text(text)


# --- identity providers ---------------------------------------------------------------------


class Provider:
    """An identity provider with keys that rotate."""

    def __init__(self) -> None:
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.asked = 0
        self.away = False
        self.url = ""

    def rotate(self, key_id: str) -> None:
        self.keys = {key_id: rsa.generate_private_key(public_exponent=65537, key_size=2048)}

    def token(self, **others: Any) -> str:
        [(key_id, key)] = self.keys.items()
        return jwt.encode(claims(**others), key, algorithm="RS256", headers={"kid": key_id})

    async def serve(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.away:
            return web.Response(status=500)
        found = []
        for key_id, key in self.keys.items():
            entry = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
            found.append(entry | {"kid": key_id, "use": "sig", "alg": "RS256"})
        return web.json_response({"keys": found})


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    one = Provider()
    one.rotate("first")
    app = web.Application()
    app.router.add_get("/jwks.json", one.serve)
    async with TestServer(app) as server:
        one.url = str(server.make_url("/jwks.json"))
        yield one


async def test_keys_of_a_provider_are_kept_and_rotate(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(jwks_url=provider.url)
    for _ in range(3):
        assert (await tokens.caller_of(provider.token())).name == "alice"
    assert provider.asked == 1
    provider.rotate("second")
    for _ in range(50):  # unknown keys do not make a request each
        await _refused(tokens, provider.token())
    assert provider.asked == 1
    monkeypatch.setattr(jwks, "LEAST_S", 0.0)
    assert (await tokens.caller_of(provider.token())).name == "alice"
    provider.away = True
    monkeypatch.setattr(jwks, "KEPT_S", 0.0)
    assert (await tokens.caller_of(provider.token())).name == "alice"


async def test_public_keys_are_no_secrets(provider: Provider) -> None:
    """The attack on those who let the token choose: HMAC with the public key as the secret."""
    tokens = Tokens(jwks_url=provider.url)
    [(key_id, key)] = provider.keys.items()
    entry = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": key_id}).encode())
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode())
    parts = [part.rstrip(b"=") for part in (header, body)]
    signature = hmac.digest(entry.encode(), b".".join(parts), "sha256")
    parts.append(base64.urlsafe_b64encode(signature).rstrip(b"="))
    await _refused(tokens, b".".join(parts).decode())
    await _refused(tokens, jwt.encode(claims(), None, algorithm="none", headers={"kid": key_id}))
    await _refused(tokens, provider.token(exp=time.time() - 60), Reason.TOKEN_EXPIRED)


async def test_a_provider_that_is_away_is_no_wrong_token(provider: Provider) -> None:
    provider.away = True
    with pytest.raises(UnavailableError) as caught:
        await Tokens(jwks_url=provider.url).caller_of(provider.token())
    assert caught.value.reason == Reason.SIGN_IN_AWAY


# --- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "sightline.lan"])
def test_an_open_server_for_others_must_be_meant(host: str) -> None:
    with pytest.raises(ConfigError, match="GATEWAY_AUTH"):
        GatewayConfig.from_env({"GATEWAY_HOST": host})
    assert GatewayConfig.from_env({"GATEWAY_HOST": host, "GATEWAY_AUTH": "open"}).auth == "open"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_a_server_for_this_machine_is_open(host: str) -> None:
    config = GatewayConfig.from_env({"GATEWAY_HOST": host})
    assert authoriser_of(config).wanted == ""


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"AUTH": "none"}, "GATEWAY_AUTH"),
        ({"AUTH": "keys"}, "GATEWAY_AUTH_KEYS"),
        ({"AUTH": "jwt"}, "GATEWAY_AUTH_JWT_SECRET"),
        ({"AUTH": "jwt", "AUTH_JWT_SECRET": "/x", "AUTH_JWKS_URL": "https://x"}, "either"),
        ({"AUTH": "jwt", "AUTH_JWKS_URL": "http://x.example"}, "GATEWAY_AUTH_JWKS_URL"),
        ({"AUTH": "jwt", "AUTH_JWKS_URL": "file:///etc/x"}, "GATEWAY_AUTH_JWKS_URL"),
    ],
)
def test_settings_of_the_sign_in_fit_together(settings: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        GatewayConfig.from_env({f"GATEWAY_{name}": value for name, value in settings.items()})


async def test_a_short_lived_token_is_signed_by_the_command(tmp_path: Path) -> None:
    """With the first of the secrets, of which any is believed: so a secret is rotated."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    command = [sys.executable, "-m", "services.gateway.auth", "--jwt", str(secret)]
    of = ["--name", "page", "--permissions", "view,ask", "--sessions", "lobby-*"]

    def signed_token(*more: str) -> str:
        made = subprocess.run(
            [*command, *of, *more], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        return made.stdout.strip()

    tokens = Tokens(secret=secret)
    old = signed_token()
    page = await tokens.caller_of(old)
    assert (page.name, page.sessions) == ("page", ("lobby-*",))
    assert page.permissions == {Permission.VIEW, Permission.ASK}
    with pytest.raises(UnauthenticatedError):
        await tokens.caller_of(signed_token("--seconds", "-60"))
    secret.write_text(f"another secret that is long enough\n{SECRET}\n")
    rotated = Tokens(secret=secret)
    assert (await rotated.caller_of(old)).name == "page"
    new = signed_token()
    assert (await rotated.caller_of(new)).name == "page"
    secret.write_text("another secret that is long enough\n")
    with pytest.raises(UnauthenticatedError):
        await Tokens(secret=secret).caller_of(old)
    assert (await Tokens(secret=secret).caller_of(new)).name == "page"
