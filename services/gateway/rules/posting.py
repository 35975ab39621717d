"""Webhooks on the wire: an event signed as by Standard Webhooks, sent to an address that may be."""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.helpers import is_ip_address
from google.protobuf import json_format
from yarl import URL

from services.common.retry_after import seconds_of
from services.common.threads import on_thread
from services.gateway.rules.delivery import Outcome
from services.gateway.sources.remote.egress_policy import Address, EgressPolicy, UnreachableError
from sightline.errors import InvalidArgumentError
from sightline.v1 import rules_pb2
from sightline.version import __version__

MAX_URL_CHARACTERS = 2048
TIMEOUT_S = 10.0
PORTS = {"https": 443, "http": 80}
# Refusals that another try may change. Any other of 4xx is the receiver's word on this event.
_PASSING = frozenset({401, 403, 404, 408, 409, 421, 423, 425, 429})


def secret_of(cluster_secret: str, webhook: str) -> str:
    """Secret of a webhook, made of the one that gateways share: it is kept nowhere."""
    made = hmac.new(cluster_secret.encode(), f"webhook {webhook}".encode(), hashlib.sha256)
    return "whsec_" + base64.b64encode(made.digest()).decode()


def signature_of(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """Header `webhook-signature` (standardwebhooks.com)."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    made = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(made.digest()).decode()


def body_of(event: rules_pb2.RuleEvent) -> bytes:
    """An event as its receiver reads it; the same bytes with every try."""
    moment = datetime.fromtimestamp(event.time_ns / 1e9, UTC)
    told = {
        "type": f"rule.{event.kind}",
        "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": json_format.MessageToDict(
            event, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        ),
    }
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def parsed_url(text: str) -> SplitResult:
    """Raises InvalidArgumentError for what is no address to send to."""
    try:
        url = urlsplit(text)
        port = url.port
        host = URL(text).raw_host or ""  # as the client that sends reads it
    except ValueError:
        raise InvalidArgumentError("this is no address") from None
    if len(text) > MAX_URL_CHARACTERS or not text.isprintable() or " " in text:
        raise InvalidArgumentError(f"an address has at most {MAX_URL_CHARACTERS} characters")
    if url.scheme not in PORTS or not url.hostname or port == 0:
        raise InvalidArgumentError("a webhook leads to an https:// address")
    if url.username is not None or url.password is not None:
        raise InvalidArgumentError("an address holds no password: events are signed")
    number = _number(host)
    if number != _number(url.hostname) or (number is None and is_ip_address(host)):
        raise InvalidArgumentError("an address of numbers is written in its usual form")
    return url


class Poster:
    """Sends events. Names are resolved once a try, and the connection goes to an address that was
    looked at. Redirections are not followed."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy

    async def check(self, url: SplitResult) -> None:
        """Raise InvalidArgumentError for an address that nothing may be sent to now."""
        try:
            await self._addresses(url)
        except UnreachableError:
            raise InvalidArgumentError(
                "webhooks may not lead there: see GATEWAY_WEBHOOK_ALLOW"
            ) from None

    async def post(
        self, url: str, secret: str, event: rules_pb2.RuleEvent, now_s: float
    ) -> Outcome:
        """Try to deliver an event once."""
        body, timestamp = body_of(event), int(now_s)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"sightline/{__version__}",
            "webhook-id": event.event,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature_of(secret, event.event, timestamp, body),
        }
        try:
            async with asyncio.timeout(TIMEOUT_S):  # looking its name up takes of it, too
                addresses = await self._addresses(parsed_url(url))
                connector = aiohttp.TCPConnector(resolver=_Pinned(addresses), use_dns_cache=False)
                async with (
                    aiohttp.ClientSession(connector=connector) as client,
                    client.post(url, data=body, headers=headers, allow_redirects=False) as reply,
                ):
                    status = reply.status  # is the whole answer, however long its text takes
                    again_s = seconds_of(reply.headers.get("Retry-After", ""), now_s)
        except UnreachableError:
            return Outcome("it has no address that may be sent to")
        except InvalidArgumentError as error:
            return Outcome(error.message, final=True)
        except TimeoutError:
            return Outcome("no answer in time")
        except (aiohttp.ClientError, OSError, ValueError) as error:  # what it says is no HTTP
            return Outcome(f"no connection: {type(error).__name__}")
        if 200 <= status < 300:
            return Outcome()
        final = 400 <= status < 500 and status not in _PASSING
        return Outcome(f"status {status}", final=final, again_s=again_s)

    async def _addresses(self, url: SplitResult) -> list[Address]:
        port = url.port or PORTS[url.scheme]
        return await on_thread(
            self._allowed, url.hostname or "", port, url.scheme == "https", name="webhook"
        )

    def _allowed(self, host: str, port: int, encrypted: bool) -> list[Address]:
        """Addresses of a host that may be sent to: without encryption those alone that the operator
        named, and never this machine's own unless named. Blocks."""
        found = [
            address
            for address in self._policy.addresses(host, port)
            if self._policy.allows(host, address, port) or (encrypted and not _is_own(address))
        ]
        if not found:
            raise UnreachableError("no address that may be sent to")
        return found


class Hook:
    """A webhook as whoever is brought events."""

    def __init__(self, poster: Poster, url: str, secret: str) -> None:
        self._poster = poster
        self._url = url
        self._secret = secret

    async def post(self, event: rules_pb2.RuleEvent) -> Outcome:
        return await self._poster.post(self._url, self._secret, event, time.time())

    async def attend(self) -> None:
        """Nothing is kept open."""

    async def leave(self) -> None:
        """Likewise."""


class _Pinned(AbstractResolver):
    """Resolver that knows the addresses already. aiohttp asks it for names alone; an address in a
    URL is the one that was looked at."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET6 if address.version == 6 else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


def _number(host: str) -> Address | None:
    """The address that a host is; None: it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_own(address: Address) -> bool:
    """Whether an address is this machine's: what goes there leaves from it. Nothing is sent."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))
        except OSError:
            return False
        own: Any = probe.getsockname()[0]
    return bool(own == str(address))
