"""Discovery: how the gateway hears which workers there are, now and later."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from services.common.config import ConfigError
from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.config import GatewayConfig
from services.gateway.workers.lookup import Found

log = logging.getLogger(__name__)


class Discovery(Protocol):
    """A place that knows the workers."""

    def changes(self) -> AsyncGenerator[Found, None]:
        """All workers, first as they are, then after each change, for good. While the place cannot
        be asked nothing comes: the last list holds."""


class StaticList:
    """Workers that are named one by one."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    async def changes(self) -> AsyncGenerator[Found, None]:
        metrics.DISCOVERY_CURRENT.labels("static").set(1)
        yield Found(self._addresses)


class Several:
    """Workers of several places, in the order of those. One that cannot be asked holds up no
    other, and what it said last holds."""

    def __init__(self, places: Sequence[Discovery]) -> None:
        self._places = places
        self._found: dict[int, Found] = {}
        self._changed = asyncio.Event()

    async def changes(self) -> AsyncGenerator[Found, None]:
        following = [
            spawn(self._follow(number, place), name=f"discovery:{number}")
            for number, place in enumerate(self._places)
        ]
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                known = [found for _, found in sorted(self._found.items())]
                yield Found(
                    tuple(dict.fromkeys(each for found in known for each in found.addresses)),
                    frozenset().union(*(found.ending for found in known)),
                )
        finally:
            await cancel_and_wait(*following)

    async def _follow(self, number: int, place: Discovery) -> None:
        async with contextlib.aclosing(place.changes()) as changes:
            async for found in changes:
                self._found[number] = found
                self._changed.set()


def discovery_of(config: GatewayConfig) -> Discovery:
    """Discovery that GATEWAY_WORKERS names. Raises ConfigError where there is no cluster to ask."""
    places = [_place(config, kind, parts) for kind, parts in config.discoveries()]
    return places[0] if len(places) == 1 else Several(places)


def _place(config: GatewayConfig, kind: str, parts: tuple[str, ...]) -> Discovery:
    if kind == "dns":
        from services.gateway.workers.dns_name import DnsName

        name, port = parts
        return DnsName(name, int(port), interval_s=config.dns_interval_s)
    if kind == "kubernetes":
        # Half a second and 30 MB, which only those pay who are in a cluster.
        from services.gateway.workers.kubernetes_endpoints import KubernetesEndpoints, cluster_api

        namespace, service, port = parts
        try:
            api = cluster_api()
        except ValueError as error:
            raise ConfigError(f"GATEWAY_WORKERS: no cluster to ask: {error}") from None
        return KubernetesEndpoints(api, namespace, service, port)
    return StaticList(parts)
