"""Weights in fewer bits."""

import logging

from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import StreamingModel

log = logging.getLogger(__name__)


def quantise(model: StreamingModel, kind: str) -> None:
    """Turn the decoder's matrices into `kind`, in place; "none" leaves them as they are.

    int8: one scale per row, activations stay as they are (torchao). Embeddings, norms, the last
    matrix and the vision tower keep their precision. Halves the memory of bfloat16 weights. Whether
    it is faster depends on the device: reading half the bytes helps a decode step that waits for
    memory, unpacking them costs.
    """
    if kind == "none":
        return
    if model.decoder.config.experts is not None:
        raise ModelError(
            f"WORKER_QUANTIZATION={kind} leaves experts as they are, which are most of this model: "
            "take none"
        )
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ModelError(f"WORKER_QUANTIZATION={kind} needs torchao: {error}") from error
    assert kind == "int8", kind
    quantize_(model.decoder.layers, Int8WeightOnlyConfig())
    log.info("decoder quantised", extra={"kind": kind})
