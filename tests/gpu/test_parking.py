"""Pages to pinned host memory and back."""

import pytest
import torch

from services.inference_worker.runner import Runner
from tests.unit.tiny import tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def test_pages_come_back_bit_identical_from_pinned_memory() -> None:
    device = torch.device("cuda")
    model = tiny_model().prepare(torch.bfloat16, device)
    runner = Runner(model, num_pages=16, page_size=4, dtype=torch.bfloat16, device=device)
    pools = [*runner.keys, *runner.values]
    for pool in pools:
        pool.normal_()
    before = [pool[:, [7, 1, 3]].clone() for pool in pools]
    saved = runner.save([7, 1, 3])
    for pool in pools:
        pool.zero_()
    runner.restore([2, 9, 5], saved)
    assert saved.is_pinned()
    assert all(
        torch.equal(pool[:, [2, 9, 5]], old) for pool, old in zip(pools, before, strict=True)
    )
