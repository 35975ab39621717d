"""What surrounds the kernels on a GPU, on the CPU: uploads, graphs, pictures encoded ahead."""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from services.common.config import ConfigError
from services.inference_worker import metrics
from services.inference_worker.assembly import _MOMENTS_S, _page_size, assemble
from services.inference_worker.config import WorkerConfig
from services.inference_worker.device.graphs import Graphs
from services.inference_worker.device.upload import packed_bytes, upload
from services.inference_worker.model.layout import FrameLayout, SegmentTokens
from services.inference_worker.runner.batch import Tubelet
from services.inference_worker.runner.runner import Runner
from services.inference_worker.runner.vision import Vision
from tests.unit.tiny import Bench, random_picture, tiny_model

CPU = torch.device("cpu")
QUESTION = [1, 10, 11, 12, 7]


def counted(how: str) -> float:
    return metrics.DEVICE_STEPS.labels(how)._value.get()


def test_arrays_arrive_as_they_left_each_on_a_boundary() -> None:
    arrays = [
        np.arange(5, dtype=np.int64),
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array([], dtype=np.int64),
        np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2],  # not contiguous
        np.array([7], dtype=np.int32),
    ]
    there = upload(arrays, CPU)
    assert packed_bytes(arrays) % 16 == 0
    for array, tensor in zip(arrays, there, strict=True):
        assert np.array_equal(tensor.numpy(), array)
        assert tensor.numpy().dtype == array.dtype
        assert not len(array) or tensor.data_ptr() % 16 == there[0].data_ptr() % 16


def test_arrays_of_the_same_shapes_lie_where_they_lay() -> None:
    target = torch.zeros(256, dtype=torch.uint8)
    first = upload([np.arange(3), np.arange(4, dtype=np.int32)], CPU, target)
    again = upload([np.arange(3) + 7, np.arange(9, dtype=np.int32)], CPU, target)
    assert [each.data_ptr() for each in first] == [each.data_ptr() for each in again]
    assert first[0].tolist() == [7, 8, 9]  # the same memory


class TestGraphs:
    def test_a_shape_that_comes_back_is_recorded_once_and_replayed(self) -> None:
        log: list[str] = []

        def record(work: Callable[[], None]) -> Callable[[], None]:
            log.append("record")
            return lambda: log.append("replay")

        graphs = Graphs(record)
        before = {how: counted(how) for how in ("eager", "captured", "replayed")}
        for _ in range(4):
            graphs.run("shape", lambda: log.append("run"))
        assert log == ["run", "record", "replay", "replay", "replay"]
        assert counted("eager") - before["eager"] == 1
        assert counted("captured") - before["captured"] == 1
        assert counted("replayed") - before["replayed"] == 2

    def test_there_are_no_more_graphs_than_it_may_keep(self) -> None:
        recorded: list[int] = []

        def record(work: Callable[[], None]) -> Callable[[], None]:
            recorded.append(1)
            return work

        graphs = Graphs(record, most=2)
        ran: list[int] = []
        for _ in range(3):
            for shape in range(5):
                graphs.run(shape, lambda shape=shape: ran.append(shape))  # type: ignore[misc]
        assert len(recorded) == 2
        assert ran == list(range(5)) * 3

    def test_what_cannot_be_recorded_runs_without(self, caplog: pytest.LogCaptureFixture) -> None:
        def record(work: Callable[[], None]) -> Callable[[], None]:
            raise RuntimeError("operation not permitted when stream is capturing")

        graphs, ran = Graphs(record), list[int]()
        with caplog.at_level(logging.ERROR):
            for _ in range(4):
                graphs.run("shape", lambda: ran.append(1))
        assert len(ran) == 4
        assert len(caplog.records) == 1  # tried once


def test_pictures_that_wait_are_encoded_ahead_once_and_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, but for the second stream."""
    encoded: list[list[Tubelet]] = []
    inner = Vision._encode

    def spy(self: Vision, layout: object, members: list[Tubelet]) -> None:
        encoded.append(list(members))
        inner(self, layout, members)  # type: ignore[arg-type]

    monkeypatch.setattr(Vision, "_encode", spy)
    logits = []
    for overlaps in (False, True):
        monkeypatch.setattr(Runner, "overlaps", overlaps)
        encoded.clear()
        bench = Bench(tiny_model(window=3))
        if overlaps:
            plain = bench.runner._forward

            def forward(ordered: list, last: list, plain=plain, bench=bench) -> torch.Tensor:  # type: ignore[no-untyped-def, type-arg]
                out = plain(ordered, last)
                bench.runner.vision.encode(
                    bench.core._builder.waiting_tubelets(bench.core.sessions.values())
                )
                return out

            monkeypatch.setattr(bench.runner, "_forward", forward)
        rng = np.random.default_rng(4)
        bench.open("s")
        for number in range(4):
            bench.push("s", random_picture(rng), number)
        bench.turn()  # takes the commands
        bench.turn()  # a step with the first frame
        assert len(encoded) == (2 if overlaps else 1)
        bench.run()
        bench.ask("s", QUESTION, max_tokens=2)
        bench.run()
        pictures = [picture for members in encoded for picture in members]
        assert len(pictures) == len(set(map(id, pictures))) == 4
        logits.append(torch.stack(bench.runner.logits))
    assert torch.equal(*logits)


def test_pictures_are_not_encoded_ahead_where_some_might_be_reused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Runner, "overlaps", True)
    bench = Bench(tiny_model(), reuse_below=1.0)
    bench.open("s")
    for number in range(2):
        bench.push("s", random_picture(np.random.default_rng(1)), number)
    bench.turn()
    assert bench.core._builder.waiting_tubelets(bench.core.sessions.values()) == []


def test_block_attention_without_a_gpu_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    model, config = tiny_model(), WorkerConfig(attention="block", kv_memory_bytes=2**24)
    with pytest.raises(ConfigError, match="WORKER_ATTENTION='block' needs"):
        assemble(model, config, torch.float32, CPU)


@pytest.mark.parametrize(
    ("tokens", "size"), [((64,), 16), ((66,), 22), ((82,), 21), ((96,), 16), ((60, 62, 63), 21)]
)
def test_pages_fill_segments_where_their_rest_would_be_read(
    tokens: tuple[int, ...], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as they are, not as they could be at most."""
    model = tiny_model()
    layout = replace(model.spec.layout, segment_tokens=99)
    model.spec = replace(model.spec, layout=layout)
    lengths = dict(zip(_MOMENTS_S, tokens * 3, strict=False))

    def segment(_layout: FrameLayout, _cursor: int, seconds: float) -> SegmentTokens:
        return SegmentTokens([0] * lengths[seconds], [(0, 0, 0)] * lengths[seconds], 1)

    monkeypatch.setattr(model, "segment", segment)
    assert _page_size(model, "auto", CPU) == size
    assert _page_size(model, "block", CPU) == _page_size(model, "auto", torch.device("cuda")) == 16
    given = WorkerConfig(kv_memory_bytes=2**26)
    for config in (given, replace(given, page_size=5)):
        pool = assemble(model, config, torch.float32, CPU).core.cache.pool
        assert pool.page_size == (config.page_size or size)


def test_a_cpu_gathers() -> None:
    engine = assemble(tiny_model(), WorkerConfig(kv_memory_bytes=2**24), torch.float32, CPU)
    assert engine.core.runner.attention == "gather"
    assert not engine.core.runner.overlaps
