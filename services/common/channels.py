"""Channels from one service to another: what all of them are opened with."""

from typing import Any

import grpc

from services.common.fresh_channel import FreshChannel
from services.common.identity import Identity

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    # A peer that comes back is found within a second, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # in truth: how long one connect() may take
    # A peer that was replaced under the same name is found after seconds, not gRPC's half minute.
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    # A peer that vanished without a word is noticed.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


def channel_to(
    peer: str | grpc.aio.Channel, identity: Identity | None = None
) -> tuple[grpc.aio.Channel, bool]:
    """A channel to an address, or one that the caller keeps; and whether it is ours to close. Made
    on a running event loop. identity: what both sides show each other; None: nothing."""
    if not isinstance(peer, str):
        return peer, False
    address: str = peer
    if identity is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS), True
    options = CHANNEL_OPTIONS
    if identity.name:
        options = (*options, ("grpc.ssl_target_name_override", identity.name))

    def connect(credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(address, credentials, options=options)

    return FreshChannel(identity.channel_credentials, connect), True
