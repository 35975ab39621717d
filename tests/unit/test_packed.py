"""Layers in oneDNN's order against the plain ones."""

import copy
import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import GELUTanh

from services.inference_worker.device.onednn import is_faster
from services.inference_worker.device.onednn_layers import PackedConvolution, PackedLinear
from services.inference_worker.model.attention import DenseAttention
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.model.packed import pack
from services.inference_worker.model.quantise import quantise
from tests.checkpoints import FAMILIES
from tests.published import Pair
from tests.unit.tiny import tiny_model

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    not is_faster(torch.float32, CPU), reason="oneDNN packs on x86-64 only"
)


@pytest.fixture(scope="module", params=["builtin", *FAMILIES])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    if request.param == "builtin":
        ours = tiny_model()
        for module in ours.modules():
            if isinstance(module, nn.BatchNorm2d):  # a trained one
                module.running_mean.normal_(0.0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.2, 2.0)  # type: ignore[union-attr]
        return ours
    ours = Pair.of(request.param, tmp_path_factory.mktemp(request.param)).ours
    assert isinstance(ours, nn.Module)
    return ours


def _seen(model: StreamingModel) -> list[Tensor]:
    """What the tower makes of noise, and the decoder's logits of words."""
    generator = torch.Generator().manual_seed(0)
    spec = model.spec
    shape = (2, spec.tubelet, spec.layout.height, spec.layout.width, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    tokens = torch.randint(0, 20, (1, 12), generator=generator)
    positions = torch.arange(12)[None, :, None].expand(1, 12, 3)
    mask = torch.ones(12, 12, dtype=torch.bool).tril()[None, None]
    with torch.inference_mode():
        encoded = model.encode(frames)
        embedded = model.decoder.embedding(tokens)
        hidden = model.decoder(embedded, positions, DenseAttention(mask))
        return [encoded.tokens, *encoded.deep, model.decoder.logits(hidden)]


def _linears(model: nn.Module) -> int:
    return sum(isinstance(module, nn.Linear) for module in model.modules())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_a_packed_model_sees_and_says_the_same(
    model: StreamingModel, dtype: torch.dtype, bound: float
) -> None:
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no bfloat16 in this machine's oneDNN")
    assert isinstance(model, nn.Module)
    plain = copy.deepcopy(model)
    omega = plain.decoder.omega.data.clone()
    plain.to(dtype)
    plain.decoder.omega.data = omega
    ours = copy.deepcopy(plain)
    tied = ours.decoder.head is None
    # Of a batch norm's two numbers, one is folded away, and the other becomes a bias.
    norms = [module for module in ours.modules() if isinstance(module, nn.BatchNorm2d)]
    count = sum(parameter.numel() for parameter in ours.parameters())
    count -= sum(norm.num_features for norm in norms)
    linears = _linears(ours)
    pack(ours)
    made = sum(isinstance(module, PackedLinear) for module in ours.modules())
    assert _linears(ours) == 0
    assert sum(isinstance(module, PackedConvolution) for module in ours.modules()) == len(norms)
    assert made == linears + tied
    extra = ours.decoder.embedding.weight.numel() if tied else 0
    assert sum(parameter.numel() for parameter in ours.parameters()) == count + extra
    for exact, near in zip(_seen(plain), _seen(ours), strict=True):
        assert near.dtype is dtype
        error = (exact.float() - near.float()).abs().max()
        assert error < bound * exact.float().abs().max()


def test_gelus_that_follow_a_layer_are_its_own(model: nn.Module) -> None:
    def kinds(of: nn.Module) -> Counter[str]:
        kinds = ["tanh" for module in of.modules() if isinstance(module, GELUTanh)]
        return Counter(kinds + [m.approximate for m in of.modules() if isinstance(m, nn.GELU)])

    ours = copy.deepcopy(model)
    pack(ours)
    after = [module.after for module in ours.modules() if isinstance(module, PackedLinear)]
    packed_kinds = Counter(algorithm for kind, algorithm in after if kind == "gelu")
    packed_kinds.update(m.gelu for m in ours.modules() if isinstance(m, PackedConvolution))
    assert not kinds(ours)
    assert packed_kinds == kinds(model)


@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_of_any_shape(gelu: str | None, bias: bool) -> None:
    torch.manual_seed(0)
    for sizes in itertools.product((1, 7, 64), (1, 5, 96)):
        plain = nn.Linear(*sizes, bias=bias).requires_grad_(False)
        ours = PackedLinear(plain.weight, plain.bias, gelu)
        for leading in ((1,), (3,), (40,), (2, 5), (2, 3, 4)):
            x = 3 * torch.randn(*leading, sizes[0])
            exact = plain(x)
            if gelu is not None:
                exact = nn.functional.gelu(exact, approximate=gelu)
            assert torch.allclose(ours(x), exact, atol=1e-4)
            strided = torch.randn(sizes[0], *leading).movedim(0, -1)
            assert torch.allclose(
                PackedLinear(plain.weight, plain.bias)(strided), plain(strided), atol=1e-4
            )


def test_what_cannot_be_packed_stays() -> None:
    half = tiny_model().to(torch.float16)
    linears = _linears(half)
    pack(half)  # type: ignore[arg-type]
    assert _linears(half) == linears
    assert half.decoder.head is None


@pytest.mark.needs("torchao")
def test_quantised_layers_stay_as_they_are(tmp_path: Path) -> None:
    ours = tiny_model()
    quantise(ours, "int8")
    exact = _seen(ours)
    pack(ours)
    assert _linears(ours.decoder.layers) == 4 * len(ours.decoder.layers)
    assert isinstance(ours.decoder.head, PackedLinear)
    for one, other in zip(exact, _seen(ours), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
