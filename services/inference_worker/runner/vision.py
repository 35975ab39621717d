"""The encoder, which turns tubelets into visual tokens.

On CUDA the encoder has a stream of its own. What a step needs is encoded before the step's decoder,
which waits for it on the device; what waits in the sessions' queues is encoded ahead, while that
decoder runs. The host waits for neither.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from services.inference_worker.device.upload import staged
from services.inference_worker.model.family import Encoded, StreamingModel
from services.inference_worker.model.layout import FrameLayout
from services.inference_worker.runner.batch import Tubelet, rounded


class Vision:
    """The encoder of one model. Only the device thread calls it, in inference mode."""

    def __init__(self, model: StreamingModel, device: torch.device) -> None:
        self.model = model
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self.stream is not None:  # weights may still be on their way
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def encode(self, tubelets: Iterable[Tubelet]) -> None:
        """Run the encoder once for all tubelets of one size that it has not seen yet."""
        sizes: dict[FrameLayout, list[Tubelet]] = {}
        for tubelet in dict.fromkeys(tubelets):
            if tubelet.encoded is None:
                sizes.setdefault(tubelet.layout, []).append(tubelet)
        for layout, members in sizes.items():
            if self.stream is None:
                self._encode(layout, members)
                continue
            with torch.cuda.stream(self.stream):
                self._encode(layout, members)
                ready = self.stream.record_event()
            for tubelet in members:
                tubelet.ready = ready

    def await_(self, tubelets: Iterable[Tubelet]) -> list[Encoded]:
        """Encodings that `encode` made of the tubelets, for the current stream: what is queued on
        it from now on runs after their encoding."""
        found = []
        events = {}
        for tubelet in tubelets:
            assert tubelet.encoded is not None, "a tubelet that was never encoded"
            found.append(tubelet.encoded)
            if tubelet.ready is not None:
                events[id(tubelet.ready)] = tubelet.ready
                stream = torch.cuda.current_stream(self.device)
                for tensor in (tubelet.encoded.tokens, *tubelet.encoded.deep):
                    tensor.record_stream(stream)  # or its memory is the encoder's again too soon
        for event in events.values():
            torch.cuda.current_stream(self.device).wait_event(event)
        return found

    @staticmethod
    def look(tubelets: Iterable[Tubelet]) -> None:
        """Write down how tubelets look whose step has run."""
        told = {
            tubelet: tubelet.encoded.strangeness
            for tubelet in tubelets
            if tubelet.encoded is not None and tubelet.encoded.strangeness is not None
        }
        if not told:
            return
        for tubelet, strangeness in zip(told, torch.stack([*told.values()]).tolist(), strict=True):
            tubelet.look.strangeness = strangeness

    def _encode(self, layout: FrameLayout, members: list[Tubelet]) -> None:
        size = self.model.spec.tubelet
        count = rounded(len(members))
        pixels = self._pixels(layout, members, count * size)
        encoded = self.model.encode(pixels.view(count, size, layout.height, layout.width, 3))
        for n, tubelet in enumerate(members):
            # Copies: a tubelet that is kept for reuse must not keep its neighbours.
            deep = tuple(layer[n].clone() for layer in encoded.deep)
            strange = encoded.strangeness
            strange = None if strange is None else strange[n].clone()
            tubelet.encoded = Encoded(encoded.tokens[n].clone(), deep, strange)

    def _pixels(self, layout: FrameLayout, members: list[Tubelet], num_frames: int) -> Tensor:
        """[bytes] uint8 of all members' frames, with blank ones up to `num_frames`."""
        host = staged(layout.frame_bytes * num_frames, self.device)
        view = host.numpy()
        start = 0
        for tubelet in members:
            for frame in tubelet.pixels:
                view[start : start + len(frame)] = np.frombuffer(frame, dtype=np.uint8)
                start += len(frame)
        view[start:] = 0
        return host.to(self.device, non_blocking=True)
