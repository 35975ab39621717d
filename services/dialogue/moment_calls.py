"""The calls of dialogue about moments: what is remembered of a session's video."""

import re

from services.common.checks import check_id
from services.dialogue.moments import MomentStore
from sightline.errors import InvalidArgumentError
from sightline.v1 import dialogue_pb2 as pb
from sightline.v1 import dialogue_pb2_grpc

MAX_LINE_CHARACTERS = 2000
MAX_PICTURES, MAX_PICTURE_BYTES = 3, 256 * 1024
MAX_EMBEDDING_BYTES = 64 * 1024
DEFAULT_MOMENTS, MOST_MOMENTS = 100, 5000
PICTURED = 64  # moments that are read at once with their pictures
MAX_REPLY_BYTES = 2 * 1024 * 1024
LONGEST_MS = 3_600_000  # that a moment lasts: those that began before a time end so much later
NS_PER_MS = 1_000_000
LATEST_NS = 2**62
_ID = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")


class MomentCalls(dialogue_pb2_grpc.DialogueServiceServicer):
    """The part of the service that keeps moments: it checks what gateways send."""

    def __init__(self, moments: MomentStore) -> None:
        self._moments = moments

    async def KeepMoment(
        self, request: pb.KeepMomentRequest, context: object
    ) -> pb.KeepMomentResponse:
        check_id("session", request.session, required=True)
        moment = request.moment
        _check(moment)
        seen = pb.Moment(pictures=moment.pictures, embedding=moment.embedding)
        said = pb.Moment()
        said.CopyFrom(moment)
        for name in ("id", "pictures", "embedding", "num_pictures"):
            said.ClearField(name)
        said.num_pictures = len(moment.pictures)
        outcome, size = await self._moments.keep(
            request.session,
            said.SerializeToString(),
            seen.SerializeToString(),
            start_ns=moment.start_ns,
            end_ns=moment.end_ns,
        )
        return pb.KeepMomentResponse(
            stored_bytes=size,
            pictures_left_out=outcome == "pictures_over",
            left_out=outcome in ("over", "gone"),
        )

    async def ListMoments(
        self, request: pb.ListMomentsRequest, context: object
    ) -> pb.ListMomentsResponse:
        check_id("session", request.session, required=True)
        limit = min(request.limit or DEFAULT_MOMENTS, MOST_MOMENTS)
        for each in (request.before, request.id):
            if each and not _ID.fullmatch(each):
                raise InvalidArgumentError("there is no such moment")
        if not (0 <= request.from_ns <= LATEST_NS and 0 <= request.to_ns <= LATEST_NS):
            raise InvalidArgumentError("a time is in nanoseconds since 1970")
        oldest = str(request.from_ns // NS_PER_MS)
        newest = str(request.to_ns // NS_PER_MS + LONGEST_MS) if request.to_ns else "+"
        if request.before:
            newest = f"({request.before}"
        if request.id:
            oldest = newest = request.id
        # What a limit cuts off must not be mistaken for the end, so that one more is read; and
        # again, where many have ended within the time of the longest, and begun too late.
        batch = min(limit + 1, PICTURED) if request.pictures else limit + 1
        reply, size = pb.ListMomentsResponse(), 0
        while True:
            entries = await self._moments.between(
                request.session, oldest, newest, batch, pictures=request.pictures
            )
            for entry in entries:
                # Protobuf merges the two.
                moment = pb.Moment.FromString(entry.moment + entry.pictures)
                late = request.to_ns and moment.start_ns >= request.to_ns
                if late or (request.from_ns and moment.end_ns <= request.from_ns):
                    continue
                size += len(entry.moment) + len(entry.pictures)
                over = size > MAX_REPLY_BYTES and reply.moments
                if over or len(reply.moments) == limit:
                    reply.more = True
                    return reply
                moment.id = entry.id
                moment.num_pictures *= entry.whole
                reply.moments.append(moment)
            if len(entries) < batch:
                return reply
            newest = f"({entries[-1].id}"

    async def ForgetMoments(
        self, request: pb.ForgetMomentsRequest, context: object
    ) -> pb.ForgetMomentsResponse:
        check_id("session", request.session, required=True)
        await self._moments.forget(request.session)
        return pb.ForgetMomentsResponse()


def _check(moment: pb.Moment) -> None:
    """Raise InvalidArgumentError for what no gateway should send."""
    if not 0 <= moment.start_ns <= moment.end_ns <= LATEST_NS:
        raise InvalidArgumentError("a moment ends after it begins")
    if moment.end_ns - moment.start_ns > LONGEST_MS * NS_PER_MS:
        raise InvalidArgumentError("a moment lasts an hour at most")
    if max(len(moment.line), len(moment.heard)) > MAX_LINE_CHARACTERS:
        raise InvalidArgumentError(f"a line has at most {MAX_LINE_CHARACTERS} characters")
    sizes = [len(picture) for picture in moment.pictures]
    if len(sizes) > MAX_PICTURES or max(sizes, default=0) > MAX_PICTURE_BYTES:
        raise InvalidArgumentError(
            f"a moment has at most {MAX_PICTURES} pictures of {MAX_PICTURE_BYTES} bytes"
        )
    if len(moment.embedding) > MAX_EMBEDDING_BYTES:
        raise InvalidArgumentError(f"an embedding has at most {MAX_EMBEDDING_BYTES} bytes")
