"""A published model's tokenizer and chat template: words to tokens and back."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from services.inference_worker.errors import ModelError
from services.inference_worker.model.family import Round

_BREAK = "\u200b"  # put into a viewer's words where they spell a control token: width zero


class Chat:
    """Prompts of one checkpoint. A session is one conversation whose first message holds the video.

    What the template writes before the video is the sink; what it writes after it, with the rounds
    so far and the question, is the branch. `placeholder`: how the template writes a video.
    """

    def __init__(self, folder: Path, placeholder: str) -> None:
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self._template = _template(folder) or self.tokenizer.chat_template
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"cannot read the tokenizer at {folder}: {error}") from error
        if not self.tokens("yes"):  # what an absent file gives
            raise ModelError(f"the tokenizer at {folder} knows no words")
        if not self._template:
            raise ModelError(f"{folder} has no chat template")
        self._placeholder = placeholder
        self._control = sorted(
            {str(token) for token in self.tokenizer.get_added_vocab()}, key=len, reverse=True
        )
        self.stop_tokens = _stop_tokens(folder, self.tokenizer.eos_token_id)

    def before_video(self) -> str:
        """What every session begins with."""
        return self._split([], "")[0]

    def after_video(self, history: list[Round], question: str) -> str:
        """Everything from the first question on, up to where the model begins to answer."""
        return self._split(history, question)[1]

    def tokens(self, text: str) -> list[int]:
        """Token ids; control tokens are read as such."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def first_token(self, text: str) -> int:
        return self.tokens(text)[0]

    def text(self, tokens: list[int]) -> str:
        decoded = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(decoded).lstrip()  # some templates leave the space before an answer to the model

    def _split(self, history: list[Round], question: str) -> tuple[str, str]:
        messages: list[dict[str, Any]] = []
        for past in history:
            messages += [_message("user", self._plain(past.question))]
            messages += [_message("assistant", self._plain(past.answer))]
        messages += [_message("user", self._plain(question))]
        messages[0]["content"].insert(0, {"type": "video"})
        rendered = self.tokenizer.apply_chat_template(
            messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
        before, found, after = str(rendered).partition(self._placeholder)
        if not found:
            raise ModelError(f"the chat template writes no {self._placeholder} for a video")
        return before, after

    def _plain(self, text: str) -> str:
        """A viewer who types a control token gets its letters, not its power."""
        for token in self._control:
            if token in text:
                text = text.replace(token, token[0] + _BREAK + token[1:])
        return text


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _template(folder: Path) -> str | None:
    """The processor's template, where it has one of its own."""
    jinja, old = folder / "chat_template.jinja", folder / "chat_template.json"
    if jinja.is_file():
        return jinja.read_text()
    if old.is_file():
        return str(json.loads(old.read_text())["chat_template"])
    return None


def _stop_tokens(folder: Path, default: int | None) -> frozenset[int]:
    file = folder / "generation_config.json"
    found = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
    listed = found if isinstance(found, list) else [found]
    return frozenset(int(token) for token in [*listed, default] if token is not None)
