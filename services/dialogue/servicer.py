"""The gRPC face of dialogue: checks what callers send, leaves keeping to the store."""

import secrets
from collections.abc import Iterable

from services.common.checks import MAX_ID_CHARACTERS, MAX_QUESTION_BYTES, check_id
from services.dialogue.config import DialogueConfig
from services.dialogue.moment_calls import MomentCalls
from services.dialogue.moments import MomentStore
from services.dialogue.store import Opened, RedisStore
from sightline.errors import InvalidArgumentError, NotFoundError
from sightline.reasons import Reason
from sightline.v1 import dialogue_pb2 as pb

DEFAULT_CONTEXT_ROUNDS = 10
DEFAULT_PAGE_ROUNDS = 100
MAX_ROUND_NUMBER = 2**53  # Redis' scripts count in floating point
_NUMBER_DIGITS = 16
MAX_REPLY_BYTES = 2 * 1024 * 1024  # well under the 4 MiB that gRPC clients accept by default


class DialogueServicer(MomentCalls):
    """Conversations: open, read, append, delete. Errors are those of dialogue.proto."""

    def __init__(self, store: RedisStore, config: DialogueConfig) -> None:
        super().__init__(MomentStore(config, store))
        self._store = store
        self._max_answer_bytes = config.max_answer_bytes

    async def Open(self, request: pb.OpenConversationRequest, context: object) -> pb.Conversation:
        conversation = request.id or secrets.token_hex(16)
        check_id("conversation", conversation, required=True)
        _check_session(request.session)
        return _described(conversation, await self._store.open(conversation, request.session))

    async def Context(self, request: pb.ContextRequest, context: object) -> pb.ContextResponse:
        check_id("conversation", request.conversation, required=True)
        count = request.rounds or DEFAULT_CONTEXT_ROUNDS
        newest = await self._store.newest(request.conversation, count)
        # When long answers do not all fit in one reply, the oldest of them stay out.
        kept = list(_fitting(reversed(newest)))
        return pb.ContextResponse(rounds=reversed(kept))

    async def Append(self, request: pb.AppendRequest, context: object) -> pb.AppendResponse:
        check_id("conversation", request.conversation, required=True)
        round_ = request.round
        check_id("turn", round_.turn, required=True)
        if not round_.question:
            raise InvalidArgumentError("the question is empty")
        _check_size("question", round_.question, MAX_QUESTION_BYTES)
        _check_size("answer", round_.answer, self._max_answer_bytes)
        appended = await self._store.append(
            request.conversation,
            round_.turn,
            round_.SerializeToString(),
            rank=_rank(round_),
            asked_ns=round_.asked_ns,
        )
        return pb.AppendResponse(rounds=appended.rounds, duplicate=appended.duplicate)

    async def History(self, request: pb.HistoryRequest, context: object) -> pb.HistoryResponse:
        """A page may be shorter than `limit` when its answers are long; `total` says if it was."""
        check_id("conversation", request.conversation, required=True)
        limit = request.limit or DEFAULT_PAGE_ROUNDS
        if request.HasField("from_round"):
            number = min(request.from_round, MAX_ROUND_NUMBER)
            page = await self._store.page_from(request.conversation, number, limit)
        else:
            page = await self._store.page(request.conversation, request.offset, limit)
        return pb.HistoryResponse(
            rounds=_fitting(page.rounds),
            total=page.opened.rounds,
            first=page.first,
            end=page.end,
            conversation=_described(request.conversation, page.opened),
        )

    async def Delete(
        self, request: pb.DeleteConversationRequest, context: object
    ) -> pb.DeleteConversationResponse:
        check_id("conversation", request.conversation, required=True)
        existed = await self._store.delete(request.conversation)
        return pb.DeleteConversationResponse(existed=existed)

    async def DeleteOfSession(
        self, request: pb.DeleteOfSessionRequest, context: object
    ) -> pb.DeleteOfSessionResponse:
        check_id("session", request.session, required=True)
        deleted = await self._store.delete_of(request.session)
        return pb.DeleteOfSessionResponse(conversations=deleted)

    async def RateTurn(self, request: pb.RateTurnRequest, context: object) -> pb.RateTurnResponse:
        check_id("conversation", request.conversation, required=True)
        check_id("turn", request.turn, required=True)
        if request.rating not in pb.Rating.values():
            raise InvalidArgumentError("there is no such rating")
        _check_size("better answer", request.better, self._max_answer_bytes)
        rating = pb.Round(rating=request.rating)
        if request.rating:
            rating.better = request.better
        if not await self._store.rate(
            request.conversation, request.turn, rating.SerializeToString()
        ):
            raise NotFoundError(
                f"no turn {request.turn!r} is kept in this conversation",
                reason=Reason.TURN_NOT_FOUND,
            )
        return pb.RateTurnResponse()

    async def ListRated(
        self, request: pb.ListRatedRequest, context: object
    ) -> pb.ListRatedResponse:
        """A page holds what is rated among some rounds of one conversation."""
        text, _, name = request.page_token.rpartition(" ")
        if not (text or "0").isdecimal() or len(text) > _NUMBER_DIGITS:
            raise InvalidArgumentError("page_token is none that a page gave")
        check_id("page_token", name)
        number = int(text or 0)
        names = await self._store.rated_from(name)
        if not names:
            return pb.ListRatedResponse()
        following = f"0 {names[1]}" if len(names) > 1 else ""
        begin = number if names[0] == name else 0
        try:
            page = await self._store.page_from(names[0], begin, DEFAULT_PAGE_ROUNDS)
        except NotFoundError:  # it has expired
            return pb.ListRatedResponse(next_page_token=following)
        rounds = list(_fitting(page.rounds))
        if rounds and page.first + len(rounds) < page.end:
            following = f"{page.first + len(rounds)} {names[0]}"
        rated = [
            pb.RatedRound(conversation=names[0], session=page.opened.session, round=each)
            for each in rounds
            if each.rating
        ]
        return pb.ListRatedResponse(rounds=rated, next_page_token=following)


def _rank(round_: pb.Round) -> str:
    """Rank among the rounds of a turn, of which one is kept: what was heard of one that a viewer
    spoke into, then a whole answer, then one that was cut off, and of two alike the later."""
    kind = 2 if round_.cut else int(not round_.interrupted)
    return f"{kind}{max(0, round_.asked_ns):020d}"


def _described(conversation: str, opened: Opened) -> pb.Conversation:
    return pb.Conversation(
        id=conversation,
        session=opened.session,
        created_ns=opened.created_ns,
        rounds=opened.rounds,
        expires_in_s=opened.expires_in_s,
    )


def _fitting(contents: Iterable[bytes]) -> Iterable[pb.Round]:
    """Rounds from the front as long as they fit in one reply."""
    size = 0
    for content in contents:
        size += len(content)
        if size > MAX_REPLY_BYTES:
            return
        yield pb.Round.FromString(content)


def _check_session(text: str) -> None:
    if len(text) > MAX_ID_CHARACTERS or "\0" in text:
        raise InvalidArgumentError(
            f"the session has over {MAX_ID_CHARACTERS} characters or a zero byte"
        )


def _check_size(name: str, text: str, limit: int) -> None:
    size = len(text.encode())
    if size > limit:
        raise InvalidArgumentError(f"the {name} has {size} bytes; at most {limit} are kept")
