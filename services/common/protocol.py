"""The version of what gateways and workers say to each other (inference.proto).

It is raised with the contract: the minor number by what an older peer can do without, the major
one, with the minor back at 0, by anything else. 1.1 brought versions, cards and ResizeSession; 1.2
fences, pools, promised pages, and what questions and watches are told when they are asked again;
1.3 ScoreStatements, questions with a history of the caller's own, and frames that are missing; 1.4
questions ahead of their asking.
"""

from sightline.v1 import inference_pb2

PROTOCOL = (1, 4)
ASKS_AHEAD = (1, 4)
FIRST = (1, 0)  # of workers from before they told


def protocol_of(description: inference_pb2.ModelDescription) -> tuple[int, int]:
    """The version that a worker speaks."""
    if not description.protocol_major:
        return FIRST
    return description.protocol_major, description.protocol_minor
