"""What a worker says of its load is about now."""

from services.inference_worker.serving.servicer import _since


def test_frames_that_waited_long_ago_are_not_its_load() -> None:
    samples = [(1.0, 9.0), (6.0, 0.2), (9.0, 0.1)]
    assert _since(5.0, samples) == [0.2, 0.1]
    assert _since(10.0, samples) == []
