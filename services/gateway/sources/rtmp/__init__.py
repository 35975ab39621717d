"""RTMP ingest: our own server on asyncio, from handshake to FLV payloads.

Adobe's "Real Time Messaging Protocol" 1.0 and Veovera's "Enhanced RTMP" v1 (with what v2 adds to
video packets). Publishing only.
"""

__all__ = ["RtmpError"]


class RtmpError(Exception):
    """The peer broke the protocol or a limit; its connection is closed."""
