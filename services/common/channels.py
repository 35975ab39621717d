"""Channels from one service to another: what all of them are opened with."""

import grpc

CHANNEL_OPTIONS = (
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


def channel_to(peer: str | grpc.aio.Channel) -> tuple[grpc.aio.Channel, bool]:
    """A channel to an address, or one that the caller keeps; and whether it is ours to close. Made
    on a running event loop."""
    if isinstance(peer, str):
        return grpc.aio.insecure_channel(peer, options=CHANNEL_OPTIONS), True
    return peer, False
