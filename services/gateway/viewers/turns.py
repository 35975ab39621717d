"""Finished turns that are not stored yet: the gateway holds them beside the worker that made them,
so that either of the two may end."""

from services.common.dialogue_client import DialogueClient
from services.common.identity import Identity
from services.gateway import metrics
from sightline.v1 import gateway_pb2, inference_pb2


class Turns:
    """Turns on their way to dialogue. Made on a running event loop.

    `address` None: this gateway knows no dialogue service, and holds nothing. What workers keep is
    theirs to say: without a word about it nothing is held either.
    """

    def __init__(self, address: str | None, identity: Identity | None = None) -> None:
        self._client: DialogueClient | None = None
        if address is not None:
            # Briefly at the end: workers hold the same.
            self._client = DialogueClient(
                address, metrics.ROUNDS, flush_timeout_s=1.0, identity=identity
            )
        self._are_kept = False  # as far as workers have said

    @property
    def takes(self) -> bool:
        """Whether there is somebody to keep them."""
        return self._client is not None

    @property
    def num_waiting(self) -> int:
        return 0 if self._client is None else self._client.num_waiting

    def answered(self, request: inference_pb2.AnswerRequest, done: gateway_pb2.AnswerDone) -> None:
        """Hold a whole answer until it is stored, where its worker has not stored it. Calls are no
        answer yet."""
        if done.HasField("kept"):
            self._are_kept = True
            if not (done.kept or done.tool_calls):
                self._hold(request, done.text, request.asked_ns, done.last_capture_ns)

    def cut_off(
        self, request: inference_pb2.AnswerRequest, text: str, last_capture_ns: int
    ) -> None:
        """Hold what a viewer heard of an answer that has no end."""
        if self._are_kept and text:
            # One later than the worker, which may have been ahead of what was shown.
            asked_ns = request.asked_ns + 1
            self._hold(request, text, asked_ns, last_capture_ns, interrupted=True)

    def cut(self, request: inference_pb2.AnswerRequest, heard: str, last_capture_ns: int) -> None:
        """Hold what a viewer heard of an answer that it spoke into, in the place of all of it."""
        if self._are_kept:
            self._hold(
                request, heard, request.asked_ns, last_capture_ns, interrupted=True, cut=True
            )

    def forget(self, conversation: str) -> None:
        """Store nothing more of a conversation, which is being deleted."""
        if self._client is not None:
            self._client.forget(conversation)

    async def aclose(self) -> None:
        """Store what can be stored in a moment; workers still hold the rest."""
        if self._client is not None:
            await self._client.aclose()

    def _hold(
        self,
        request: inference_pb2.AnswerRequest,
        text: str,
        asked_ns: int,
        last_capture_ns: int,
        *,
        interrupted: bool = False,
        cut: bool = False,
    ) -> None:
        if self._client is None or not request.conversation:
            return
        self._client.append(
            request.conversation,
            turn=request.question.turn,
            question=request.question.text,
            answer=text,
            asked_ns=asked_ns,
            capture_ns=last_capture_ns,
            interrupted=interrupted,
            cut=cut,
            session=request.home or request.session_id,
        )
