"""A fake service on the loopback interface, for a client to call."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

NOWHERE = "127.0.0.1:1"


@asynccontextmanager
async def served(
    add: Callable[[Any, Any], None], servicer: Any, *interceptors: grpc.aio.ServerInterceptor
) -> AsyncIterator[str]:
    server = grpc.aio.server(interceptors=interceptors)
    add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)
