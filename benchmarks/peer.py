"""Peers of the engine, each with the same random weights and the same stream: what they are asked
for, and how each does it as well as it can."""

import json
import os
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks import REPOSITORY
from benchmarks.feed import Feed, ask, begin
from benchmarks.published import Growing, Theirs
from services.inference_worker.engine.thread import Engine
from services.inference_worker.model.published.model import PublishedModel

QUESTION = "What is happening in the video?"
OPENVINO = Path(os.environ.get("PEERS_VENV", REPOSITORY / ".cache" / "peers-venv"))


class Peer(Protocol):
    """Something that watches a live stream of which it has seen a whole window. Seconds each."""

    name: str

    def frame_s(self) -> float:
        """One more frame understood."""

    def first_token_s(self) -> float:
        """The first token about the last window of frames."""

    def token_s(self) -> float:
        """One more token of an answer, in the middle of it."""

    def close(self) -> None: ...


class Ours:
    """The engine: a frame goes into the window, a question is a branch of it."""

    name = "Sightline"

    def __init__(self, engine: Engine, frames: list[bytes], length: int) -> None:
        self._engine, self._length = engine, length
        self._feed = Feed(engine, "live", frames)
        for _ in frames:
            self._feed.show()

    def frame_s(self) -> float:
        return self._feed.step_s()

    def first_token_s(self) -> float:
        return ask(self._engine, self._feed.session, QUESTION, 1).first_token_s

    def token_s(self) -> float:
        answer = begin(self._engine, self._feed.session, QUESTION, self._length)
        answer.wait()
        return (answer.ended_s - answer.first_s) / (len(answer.tokens) - 1)

    def close(self) -> None:
        self._feed.close()


class Transformers:
    """transformers' class: frames go into its cache, as a program could do it, and a question reads
    the whole window anew, as its interface does."""

    name = "transformers"

    def __init__(
        self, model: PublishedModel, folder: Path, frames: list[bytes], length: int
    ) -> None:
        self._length = length
        self._theirs = Theirs(model, folder)
        self._growing = Growing(self._theirs, frames)
        for _ in frames:
            self._growing.show()
        self._cache = self._growing.cache
        self._question = model.question_tokens([], QUESTION)
        self._window = self._theirs.window([[frame] for frame in frames], self._question)

    def frame_s(self) -> float:
        """Into its cache, which is then cut to what it was, as if the window moved at no cost."""
        seen = self._cache.get_seq_length()
        spent_s = self._growing.show()
        self._cut(seen)
        return spent_s

    def first_token_s(self) -> float:
        return self._theirs.first_token(self._window)[1]

    def kept_first_token_s(self) -> float:
        """The same on the cache that was kept."""
        seen = self._cache.get_seq_length()
        spent_s = self._forward(self._question)
        self._cut(seen)
        return spent_s

    def token_s(self) -> float:
        seen = self._cache.get_seq_length()
        self._forward(self._question)
        spent_s = [self._forward([n]) for n in range(1, self._length)]
        self._cut(seen)
        return statistics.mean(spent_s)

    def close(self) -> None:
        del self._theirs, self._growing, self._cache

    @property
    def window(self) -> list[int]:
        """Tokens of the window with its question, as transformers numbers them."""
        tokens: list[int] = self._window["input_ids"][0].tolist()
        return tokens

    @property
    def frame(self) -> list[int]:
        """Tokens of one more frame."""
        ours = self._theirs.ours
        segment = ours.segment(ours.spec.layout, 0, 0.0)
        tokens: list[int] = self._theirs.inputs(segment.tokens, segment.positions, [])["input_ids"][
            0
        ].tolist()
        return tokens

    def _cut(self, length: int) -> None:
        self._cache.crop(length - self._cache.get_seq_length())

    @torch.inference_mode()
    def _forward(self, tokens: list[int]) -> float:
        """Words behind what the cache holds, to the scores of the next one."""
        seen = self._cache.get_seq_length()
        places = [(seen + n,) * 3 for n in range(len(tokens))]
        inputs = self._theirs.inputs(tokens, places, [])
        started_s = time.perf_counter()
        self._theirs.model(**inputs, cache=self._cache, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - started_s


@dataclass
class OpenVino:
    """OpenVINO by optimum-intel, in an environment of its own: it wants another transformers. What
    it is asked goes over its standard input, what it took comes back."""

    name: str
    process: subprocess.Popen[str]

    @classmethod
    def start(cls, folder: Path, stream: dict[str, Any], *, int8: bool) -> "OpenVino | str":
        """The peer, once its model is ready; or why there is none. stream: tokens of the `window`
        with its question and of a `frame`, the number of `frames` and their `side` in pixels, the
        `length` of an answer."""
        python = OPENVINO / "bin" / "python"
        if not python.exists():
            return "OpenVINO is not measured: `make peers` installs it"
        name = "OpenVINO, int8" if int8 else "OpenVINO"
        file, log = folder.parent / "stream.json", folder.parent / f"{name}.log"
        file.write_text(json.dumps(stream))
        with log.open("w") as output:
            process = subprocess.Popen(
                [
                    *(python, Path(__file__).with_name("openvino_peer.py"), folder, file),
                    "int8" if int8 else "default",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        peer = cls(name, process)
        if peer._read() is None:
            process.wait(60)
            said = log.read_text().strip().splitlines() or ["it ended without a word"]
            return f"{name} is not measured: {said[-1][:200]}"
        return peer

    def frame_s(self) -> float:
        return self._ask("frame")

    def first_token_s(self) -> float:
        return self._ask("first")

    def token_s(self) -> float:
        return self._ask("token")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _ask(self, what: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        answer = self._read()
        if answer is None:
            raise RuntimeError(f"{self.name} ended")
        return float(answer)

    def _read(self) -> float | None:
        """A number; None where it has ended. Libraries may chat in between."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return float(json.loads(line)["s"])
        return None
