"""Weights go from the mapped file to the device; the host keeps none."""

from pathlib import Path

import pytest
import torch

from tests.checkpoints import write_checkpoint
from tests.load_peak import TENS_OF_MEGABYTES, load_peak

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def test_loading_takes_one_shard_of_host_memory(tmp_path: Path) -> None:
    folder = write_checkpoint("qwen2_5_vl", tmp_path / "model", shards=4, **TENS_OF_MEGABYTES)
    largest = max(shard.stat().st_size for shard in folder.glob("*.safetensors"))
    peak, _ = load_peak(folder, "cuda")
    assert peak < 1.2 * largest
