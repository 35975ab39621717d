"""OpenVINO in `python -m benchmarks peers`, in an environment of its own: optimum-intel wants
another transformers. FOLDER of the model, FILE with the stream's tokens, `int8` or `default`.

It makes its model ready and says so; then it answers each line of its standard input (`frame`,
`first`, `token`) with the seconds that it took, as JSON. Nothing of Sightline is imported.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from optimum.intel import OVModelForVisualCausalLM
from transformers.generation.streamers import BaseStreamer


class Clock(BaseStreamer):
    """Times of what is generated: first the prompt, which is there at once, then each token."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times_s.append(time.perf_counter())

    def end(self) -> None:
        pass


class Stream:
    """A window of frames and a question, and one more frame. A question is asked of the interface,
    `generate`; a frame goes where that left off: into the state of its language model."""

    def __init__(self, folder: str, stream: dict[str, Any], *, int8: bool) -> None:
        self._model = OVModelForVisualCausalLM.from_pretrained(
            folder, export=True, load_in_8bit=int8
        )
        self._length = stream["length"]
        self._window = torch.tensor([stream["window"]])
        self._frame = torch.tensor([stream["frame"]])
        side = stream["side"]
        self._pictures = torch.rand(1, stream["frames"], 3, side, side)
        self._token_s = 0.0

    def first(self) -> float:
        clock, started_s = Clock(), time.perf_counter()
        self._model.generate(
            input_ids=self._window,
            attention_mask=torch.ones_like(self._window),
            pixel_values=self._pictures,
            max_new_tokens=self._length,
            min_new_tokens=self._length,
            do_sample=False,
            streamer=clock,
        )
        first_s, *later_s = clock.times_s[1:]
        self._token_s = (later_s[-1] - first_s) / len(later_s)
        return first_s - started_s

    def token(self) -> float:
        """Of the answer that `first` began."""
        return self._token_s

    def frame(self) -> float:
        language, started_s = self._model.language_model, time.perf_counter()
        seen = language._past_length
        embedded, mask, places = self._model.get_multimodal_embeddings(
            input_ids=self._frame,
            pixel_values=self._pictures[:, :1],
            attention_mask=torch.ones(1, seen + self._frame.shape[1], dtype=torch.long),
            position_ids=torch.arange(seen, seen + self._frame.shape[1])[None],
            past_key_values=None,
        )[:3]
        language.forward(
            input_ids=None,
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=places,
            past_key_values=((),),
        )
        return time.perf_counter() - started_s


def main(folder: str, file: str, kind: str) -> None:
    stream = Stream(folder, json.loads(Path(file).read_text()), int8=kind == "int8")
    stream.first()
    stream.frame()
    say(0.0)
    for line in sys.stdin:
        say(getattr(stream, line.strip())())


def say(seconds: float) -> None:
    print(json.dumps({"s": seconds}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
