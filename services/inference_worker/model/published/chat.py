"""A published model's tokenizer and chat template: words to tokens and back."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import Round
from services.inference_worker.model.form import Form, returned, written
from services.inference_worker.model.published.folder import chat_template

_BREAK = "\u200b"  # put into a viewer's words where they spell a control token: width zero


class Chat:
    """Prompts of one checkpoint. A session is one conversation whose first message holds the video.

    What the template writes before the video is the sink; what it writes after it, with the rounds
    so far and the question, is the branch. `placeholder`: how the template writes a video.
    """

    def __init__(self, folder: Path, placeholder: str, template: str | None = None) -> None:
        """template: that of the family, where it has one for every checkpoint; else the folder's.
        Raises ModelError for a folder whose words cannot be had."""
        own = template or chat_template(folder)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # transformers and tokenizers raise whatever comes to them
            missing = "" if (folder / "tokenizer.json").is_file() else "tokenizer.json is missing: "
            raise ModelError(f"cannot read the tokenizer at {folder}: {missing}{error}") from error
        self._template = own or _default(self.tokenizer.chat_template)
        if not self.tokens("yes"):  # what an absent file gives
            raise ModelError(f"the tokenizer at {folder} knows no words")
        if not self._template:
            raise ModelError(f"{folder} has no chat template")
        self._placeholder = placeholder
        self._control = sorted(
            {str(token) for token in self.tokenizer.get_added_vocab()}, key=len, reverse=True
        )

    @property
    def thinks(self) -> bool:
        """Whether an answer begins inside a thought, also when none is wanted."""
        return self.after_video([], "").rstrip().endswith("<think>")

    def check_fits(self, vocab_size: int) -> None:
        """Raise ModelError for words that the model has no row for."""
        last = max(self.tokenizer.get_vocab().values())
        if last >= vocab_size:
            raise ModelError(f"the tokenizer has token {last}, the model {vocab_size} words")

    def before_video(self) -> str:
        """Text that every session begins with."""
        return self._split([], "")[0]

    def after_video(self, history: list[Round], question: str, form: Form | None = None) -> str:
        """Everything from the first question on, up to where the model begins to answer."""
        return self._split(history, question, form)[1]

    @property
    def added(self) -> set[str]:
        """Words that were added to the tokenizer's, and that are written out where an answer has
        them."""
        added = self.tokenizer.added_tokens_decoder.values()
        return {str(token) for token in added if not token.special}

    def written(self) -> str:
        """The tokenizer as tokenizer.json has it, with all that was added."""
        return str(self.tokenizer.backend_tokenizer.to_str())

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

    def _split(
        self, history: list[Round], question: str, form: Form | None = None
    ) -> tuple[str, str]:
        messages: list[dict[str, Any]] = []
        for past in history:
            messages += [_message("user", self._plain(past.question))]
            messages += [_message("assistant", self._plain(past.answer))]
        told = form.words(self._plain) if form is not None else ""
        asked = self._plain(question)
        messages += [_message("user", f"{told}\n\n{asked}" if told else asked)]
        for call in form.called if form is not None else ():
            messages += [_message("assistant", written(call, self._plain))]
            messages += [_message("user", returned(call, self._plain))]
        messages[0]["content"].insert(0, {"type": "video"})
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # some templates ask
            )
        except Exception as error:  # Jinja's, or of what the template does
            raise ModelError(f"the chat template cannot be used: {error}") from error
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


def _default(template: Any) -> str | None:
    """A tokenizer's template; some have several."""
    return template.get("default") if isinstance(template, dict) else template
