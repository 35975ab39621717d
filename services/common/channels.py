"""Channels between our own services, all with one set of options."""

import grpc

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    # A peer that vanished without a word is noticed.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # A peer that comes back is found within two seconds, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # in truth: how long one connect() may take
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def channel_to(address: str) -> grpc.aio.Channel:
    """A channel to a service at host:port. It connects when it is first used."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
