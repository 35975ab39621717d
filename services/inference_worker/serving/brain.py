"""Brain behind the calls: what they ask of an engine, or of whoever stands in its place."""

from concurrent.futures import Future
from typing import Protocol

from services.inference_worker.engine.admission import EngineLimits
from services.inference_worker.engine.jobs import FrameJob, Generation, Newest
from services.inference_worker.engine.snapshot import EngineSnapshot
from services.inference_worker.model.family import ServedModel
from services.inference_worker.model.layout import FrameLayout


class Brain(Protocol):
    """Keeper of sessions, which takes their frames and answers about them. Everything returns at
    once; `engine.thread.Engine` says what each does."""

    @property
    def model(self) -> ServedModel: ...
    @property
    def limits(self) -> EngineLimits: ...
    @property
    def branch_tokens(self) -> int: ...
    @property
    def dtype_name(self) -> str: ...
    @property
    def device_name(self) -> str: ...

    def snapshot(self) -> EngineSnapshot: ...

    def newest(self, session_id: str) -> Future[Newest | None]: ...

    def open_session(
        self, session_id: str, window_segments: int = 0, max_pixels: int = 0, priority: int = 0
    ) -> Future[None]: ...

    def resize_session(
        self, session_id: str, window_segments: int, layout: FrameLayout
    ) -> Future[int]: ...

    def close_session(self, session_id: str) -> Future[bool]: ...

    def submit_frame(self, session_id: str, frame: FrameJob) -> None: ...

    def submit_branch(self, session_id: str, job: Generation) -> None: ...

    def cancel(self, job: Generation) -> None: ...
