"""The Gemini Live wire over a WebSocket: messages as Google's clients send and expect them."""

from typing import Any

from tests.unit.fake_worker import ANSWER, FakeWorker
from tests.unit.gemini_parts import PATH, TEXT, client_of


async def test_a_question_by_text_is_answered_message_by_message() -> None:
    async with client_of() as client:
        assert client.messages == [{"setupComplete": {}}]
        assert await client.ask("what is there") == ANSWER
        contents = [each["serverContent"] for each in client.messages[1:]]
        assert [list(each) for each in contents] == [
            *[["modelTurn"]] * len(ANSWER.split()),
            ["generationComplete"],
            ["turnComplete"],
        ]
        assert contents[0]["modelTurn"]["role"] == "model"
        usage = client.messages[-1]["usageMetadata"]
        assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["responseTokenCount"]
