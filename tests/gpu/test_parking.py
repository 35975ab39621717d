"""Pages to pinned host memory and back."""

import pytest
import torch

from services.inference_worker.runner.runner import Runner
from tests.unit.tiny import tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.mark.parametrize("kind", ["auto", "int8"])
def test_pages_come_back_bit_identical_from_pinned_memory(kind: str) -> None:
    device = torch.device("cuda")
    model = tiny_model().prepare(torch.bfloat16, device)
    runner = Runner(
        model, num_pages=16, page_size=4, dtype=torch.bfloat16, device=device, kv_dtype=kind
    )
    slots = torch.arange(64, device=device)
    for pages in (*runner.store.keys, *runner.store.values):
        pages.write(slots, torch.randn(1, 64, 16, device=device))
    before = [part[:, [7, 1, 3]].clone() for part in runner.store.parts]
    saved = runner.save([7, 1, 3])
    torch.cuda.synchronize()
    for part in runner.store.parts:
        part.zero_()
    runner.restore([2, 9, 5], saved)
    after = [part[:, [2, 9, 5]] for part in runner.store.parts]
    assert saved.is_pinned()
    assert all(torch.equal(new, old) for new, old in zip(after, before, strict=True))
