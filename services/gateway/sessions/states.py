"""States of a session, in short and by the names that figures have them by."""

from sightline.v1 import gateway_pb2

WAITING = gateway_pb2.SESSION_STATE_WAITING
LIVE = gateway_pb2.SESSION_STATE_LIVE
STALLED = gateway_pb2.SESSION_STATE_STALLED
ENDED = gateway_pb2.SESSION_STATE_ENDED
STATE_NAMES = {WAITING: "waiting", LIVE: "live", STALLED: "stalled", ENDED: "ended"}
