"""The encoder, which turns pictures into visual tokens.

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
from services.inference_worker.runner.batch import Picture, rounded


class Vision:
    """The encoder of one model. Only the device thread calls it, in inference mode."""

    def __init__(self, model: StreamingModel, device: torch.device) -> None:
        self.model = model
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self.stream is not None:  # weights may still be on their way
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def encode(self, pictures: Iterable[Picture]) -> None:
        """Run the encoder once for all pictures of one size that it has not seen yet."""
        sizes: dict[FrameLayout, list[Picture]] = {}
        for picture in dict.fromkeys(pictures):
            if picture.encoded is None:
                sizes.setdefault(picture.layout, []).append(picture)
        for layout, members in sizes.items():
            if self.stream is None:
                self._encode(layout, members)
                continue
            with torch.cuda.stream(self.stream):
                self._encode(layout, members)
                ready = self.stream.record_event()
            for picture in members:
                picture.ready = ready

    def await_(self, pictures: Iterable[Picture]) -> list[Encoded]:
        """What `encode` made of the pictures, for the current stream: what is queued on it from now
        on runs after their encoding."""
        found = []
        events = {}
        for picture in pictures:
            assert picture.encoded is not None, "a picture that was never encoded"
            found.append(picture.encoded)
            if picture.ready is not None:
                events[id(picture.ready)] = picture.ready
                stream = torch.cuda.current_stream(self.device)
                for tensor in (picture.encoded.tokens, *picture.encoded.deep):
                    tensor.record_stream(stream)  # or its memory is the encoder's again too soon
        for event in events.values():
            torch.cuda.current_stream(self.device).wait_event(event)
        return found

    def _encode(self, layout: FrameLayout, members: list[Picture]) -> None:
        tubelet = self.model.spec.tubelet
        count = rounded(len(members))
        pixels = self._pixels(layout, members, count * tubelet)
        encoded = self.model.encode(pixels.view(count, tubelet, layout.height, layout.width, 3))
        for n, picture in enumerate(members):
            # Copies: a picture that is kept for reuse must not keep its neighbours.
            deep = tuple(layer[n].clone() for layer in encoded.deep)
            picture.encoded = Encoded(encoded.tokens[n].clone(), deep)

    def _pixels(self, layout: FrameLayout, members: list[Picture], num_frames: int) -> Tensor:
        """[bytes] uint8 of all members' frames, with blank ones up to `num_frames`."""
        host = staged(layout.frame_bytes * num_frames, self.device)
        view = host.numpy()
        start = 0
        for picture in members:
            for frame in picture.pixels:
                view[start : start + len(frame)] = np.frombuffer(frame, dtype=np.uint8)
                start += len(frame)
        view[start:] = 0
        return host.to(self.device, non_blocking=True)
