"""The items of one conversation, in order."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from services.gateway.api.realtime.fields import WireError
from services.gateway.api.realtime.functions import Call
from services.gateway.api.realtime.items import Item

MAX_ITEMS = 1000  # the oldest are forgotten, as OpenAI's `truncation: auto` does
ROOT = "root"  # the place before the first item


class History:
    """Items by their ids. What clients ask of it raises WireError."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._given_up = ""  # the newest item whose answer was not wanted any more

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def check_new(self, item_id: str, after: str = "") -> None:
        """Raise what `add` would."""
        if any(item_id == other.id for other in self._items):
            raise WireError(
                f"the conversation has an item {item_id!r} already",
                code="item_create_duplicate_item_id",
                param="item.id",
            )
        self._place(after)

    def add(self, item: Item, after: str = "") -> str | None:
        """Put an item after another, or at the end. Gives the id of the one before it."""
        self.check_new(item.id, after)
        place = self._place(after)
        self._items.insert(place, item)
        before = self._items[place - 1].id if place else None
        del self._items[: max(0, len(self._items) - MAX_ITEMS)]
        return before

    def get(self, item_id: str) -> Item:
        return self._items[self._index(item_id, "item_id", "item_retrieve_invalid_item_id")]

    def delete(self, item_id: str) -> None:
        del self._items[self._index(item_id, "item_id", "item_delete_invalid_item_id")]

    def change(self, item: Item) -> None:
        """The item of the same id is this now, where it is still there."""
        for index, other in enumerate(self._items):
            if other.id == item.id:
                self._items[index] = item

    def truncate(self, item_id: str, content_index: int, share: float) -> Item:
        """Cut what an answer says to what was heard of it: the first `share` of its words."""
        code = "item_truncate_invalid_item_id"
        item = self._items[self._index(item_id, "item_id", code)]
        if item.role != "assistant":
            raise WireError("only answers are truncated", code=code, param="item_id")
        if content_index >= len(item.content):
            raise WireError(
                f"the item has {len(item.content)} parts",
                code="item_truncate_invalid_content_index",
                param="content_index",
            )
        part = item.content[content_index]
        words = part.words.split(" ")
        heard = " ".join(words[: round(len(words) * min(1.0, share))])
        if part.type == "output_audio":
            part = replace(part, transcript=heard)
        else:
            part = replace(part, text=heard)
        content = (*item.content[:content_index], part, *item.content[content_index + 1 :])
        item = replace(item, content=content)
        self.change(item)
        return item

    def rounds(self) -> list[tuple[str, str]]:
        """What was asked and answered before that, oldest first. Answers to nothing, such as
        greetings, are left out."""
        return rounds_of(self._items)

    def unanswered(self, coming: str = "") -> str:
        """What was said since the last answer, or the last one that was given up. coming: words
        whose item is not here yet."""
        return unanswered_of(self._wanted(), coming)

    def called(self) -> list[Call]:
        """Calls since then that something has come of."""
        return called_of(self._wanted())

    def _wanted(self) -> list[Item]:
        ids = [item.id for item in self._items]
        first = ids.index(self._given_up) + 1 if self._given_up in ids else 0
        return self._items[first:]

    def give_up(self) -> None:
        """What was said until now is to be answered no more."""
        self._given_up = self._items[-1].id if self._items else ""

    def _place(self, after: str) -> int:
        if after in ("", ROOT):
            return 0 if after else len(self._items)
        return self._index(after, "previous_item_id", "item_create_invalid_previous_id") + 1

    def _index(self, item_id: str, param: str, code: str) -> int:
        for index, item in enumerate(self._items):
            if item.id == item_id:
                return index
        raise WireError(f"no item {item_id!r} in the conversation", code=code, param=param)


def rounds_of(items: Sequence[Item]) -> list[tuple[str, str]]:
    """Questions with their answers, as far as the items hold both."""
    rounds: list[tuple[str, str]] = []
    said: list[str] = []
    before = ""
    for item in items[: _end_of_answers(items)]:
        if item.role == "user" and item.words:
            if before == "assistant":
                said.clear()
            said.append(item.words)
        elif item.role == "assistant" and item.words:
            if before == "assistant" and rounds:  # it goes on
                rounds[-1] = (rounds[-1][0], f"{rounds[-1][1]}\n{item.words}")
            elif said:
                rounds.append(("\n".join(said), item.words))
        else:
            continue
        before = item.role
    return rounds


def unanswered_of(items: Sequence[Item], coming: str = "") -> str:
    """What users have said since the last answer; where they said nothing, what `system` messages
    did: Pipecat makes those of what a program says in the middle."""
    said: dict[str, list[str]] = {"user": [], "system": []}
    for item in _since_answer(items):
        if item.role in said and item.words:
            said[item.role].append(item.words)
    said["user"] += [coming] if coming else []
    return "\n".join(said["user"] or said["system"])


def called_of(items: Sequence[Item]) -> list[Call]:
    """Calls since the last answer that something has come of."""
    since = _since_answer(items)
    outputs = {item.call_id: item.output for item in since if item.type == "function_call_output"}
    return [
        Call(id=call.call_id, name=call.name, arguments=call.arguments, output=output)
        for call in since
        if call.type == "function_call" and (output := outputs.get(call.call_id)) is not None
    ]


def _since_answer(items: Sequence[Item]) -> Sequence[Item]:
    return items[_end_of_answers(items) :]


def _end_of_answers(items: Sequence[Item]) -> int:
    """Index behind the last answer. What a model says before it calls a function is none."""
    after = ""
    for index in range(len(items) - 1, -1, -1):
        if items[index].role == "assistant":
            if after != "function_call":
                return index + 1
        else:
            after = items[index].type
    return 0
