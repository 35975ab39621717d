"""EfficientNet-Lite0's trunk, for photographs (Tan and Le, arXiv:1905.11946; the Lite kind has no
squeeze-and-excitation and clips at 6), and the encoder that makes tokens of its maps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

STEM = 32
# Expansion, kernel, stride, channels and number of blocks of each stage.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
# Stages after which maps are taken: at 1/8, 1/16 and 1/32 of the picture's size.
NEAR, FINE, COARSE = 2, 4, 6
_PARTS = (6, 3)  # rows and columns that a cell keeps of the nearer maps: words are read from them
WIDE = 1280  # channels in which the published classifier tells things apart
STRIDE = 32
_DROPOUT = 0.3  # of what cells read from the maps, while they learn
_EPSILON = 1e-3  # of the batch norms, as they were trained


class Convolution(nn.Module):
    """A convolution padded as TensorFlow does, more at the right and lower edge where it strides,
    its batch norm, and the clip after it where `clips`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, clips: bool
    ) -> None:
        super().__init__()
        less, more = (kernel - stride) // 2, (kernel - stride + 1) // 2
        even = less if less == more else 0  # a convolution pads by itself what it can
        self.padding = (0, 0, 0, 0) if even or kernel == 1 else (less, more, less, more)
        self.convolution = nn.Conv2d(
            inputs, outputs, kernel, stride, even, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=_EPSILON, momentum=0.01)
        self.clips = clips

    def forward(self, x: Tensor) -> Tensor:
        if any(self.padding):
            x = functional.pad(x, self.padding)
        x = self.norm(self.convolution(x))
        return functional.relu6(x) if self.clips else x

    def fold(self) -> None:
        """Let the convolution do what its norm does, once it learns no more."""
        if isinstance(self.norm, nn.BatchNorm2d):
            dtype = self.convolution.weight.dtype
            whole = fuse_conv_bn_eval(self.convolution.eval().float(), self.norm.eval().float())
            self.convolution = whole.to(dtype)
            self.convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.convolution.requires_grad_(False)
            self.norm = nn.Identity()


class Block(nn.Module):
    """Inverted bottleneck: widen, look around by channel, narrow; beside itself where it keeps its
    shape."""

    def __init__(self, inputs: int, outputs: int, widening: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * widening
        self.expand = Convolution(inputs, wide, 1, 1, 1, True) if widening > 1 else None
        self.depthwise = Convolution(wide, wide, kernel, stride, wide, True)
        self.project = Convolution(wide, outputs, 1, 1, 1, False)
        self.keeps = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.expand is None else self.expand(x)
        out: Tensor = self.project(self.depthwise(wide))
        return x + out if self.keeps else out


class Lite0(nn.Module):
    """[frames, 3, side, side] in −1…1 → maps [frames, 40, side / 8, side / 8], [frames, 112, side /
    16, side / 16] and [frames, 320, side / 32, side / 32]. Sides are multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, STEM, 3, 2, 1, True)
        stages = []
        inputs = STEM
        for widening, kernel, stride, outputs, count in STAGES:
            blocks = []
            for number in range(count):
                blocks.append(Block(inputs, outputs, widening, kernel, 1 if number else stride))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.head = Convolution(inputs, WIDE, 1, 1, 1, True)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.stem(pixels)
        found: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in (NEAR, FINE, COARSE):
                found.append(x)
        near, fine, coarse = found
        return near, fine, coarse


class PhotoEncoder(nn.Module):
    """[frames, 3, side, side] in −1…1 → [frames, grid², hidden].

    A cell's token is the sum of what is made of its part of each map: of the nearer two place by
    place, so that letters and edges keep theirs, of the coarsest its mean in many channels; and of
    that of the whole picture, because a thing held close is larger than a cell.
    """

    def __init__(self, grid: int, hidden: int) -> None:
        super().__init__()
        self.grid = grid
        self.trunk = Lite0()
        near, fine = (STAGES[stage][3] for stage in (NEAR, FINE))
        self.near = nn.Linear(near * _PARTS[0] ** 2, hidden)
        self.fine = nn.Linear(fine * _PARTS[1] ** 2, hidden)
        self.coarse = nn.Linear(WIDE, hidden)
        self.whole = nn.Linear(WIDE, hidden)
        self.project = nn.Sequential(
            nn.Linear(hidden, 2 * hidden),
            nn.GELU(approximate="tanh"),
            nn.Linear(2 * hidden, hidden),
        )
        self.places = nn.Parameter(torch.zeros(grid**2, hidden))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tokens(self.maps(pixels))

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """What the trunk makes of pictures."""
        return [*self.trunk(pixels)]

    def tokens(self, maps: list[Tensor]) -> Tensor:
        near, fine, coarse = maps
        tokens = self.near(self._cells(near, _PARTS[0])) + self.fine(self._cells(fine, _PARTS[1]))
        wide = self.trunk.head(coarse)
        tokens = tokens + self.coarse(self._cells(wide, 1))
        whole = functional.dropout(wide.mean((2, 3)), _DROPOUT, self.training)
        tokens = tokens + self.whole(whole)[:, None]
        return tokens + self.project(tokens) + self.places  # type: ignore[no-any-return]

    def _cells(self, maps: Tensor, parts: int) -> Tensor:
        """[frames, grid², parts² × channels] of maps [frames, channels, rows, columns]."""
        pooled = functional.adaptive_avg_pool2d(maps, self.grid * parts)
        cells = functional.unfold(pooled, parts, stride=parts).transpose(1, 2)
        return functional.dropout(cells, _DROPOUT, self.training)
