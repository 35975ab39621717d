"""Runs the gateway: `python -m services.gateway`."""

import logging
import os
import sys
import threading

from services.common.admission import CallLimits
from services.common.entry import run
from services.common.server import ServiceHost
from services.gateway.config import GatewayConfig
from services.gateway.gateway import Gateway
from sightline.v1 import gateway_pb2

# A picture that is longer comes in parts (PushPart). Everything else is far below.
MAX_MESSAGE_BYTES = 2 * 1024 * 1024
CALLS = CallLimits(
    calls=8192,
    calls_per_place=2048,
    streams_per_place=256,
    streams_per_connection=4096,
    receiving=32,
)


async def serve(config: GatewayConfig) -> None:
    name = gateway_pb2.DESCRIPTOR.services_by_name["SightlineService"].full_name
    host = ServiceHost(
        name="gateway",
        config=config,
        full_names=(name,),
        max_message_bytes=MAX_MESSAGE_BYTES,
        calls=CALLS,
        trusted=config.trusted(),
        certificate=config.certificate(),
        reflects=config.auth in (None, "open"),
    )
    gateway = Gateway(config, host)
    try:
        await gateway.start()
    except BaseException:
        await gateway.drain()
        raise
    await host.run(gateway.drain)


if __name__ == "__main__":
    if status := run("gateway", GatewayConfig, serve):
        sys.exit(status)
    if any(thread.daemon for thread in threading.enumerate()):
        # A picture is still being decoded, or a name looked up. Nobody waits for that, and taking
        # the interpreter down around it could crash.
        logging.shutdown()
        os._exit(0)
