"""The U-Net of Semantic Genesis and the network with its pattern head, for crops of any size divisible by eight.

Facts from METHOD.md section 2: channel counts, order of concatenation, names of the state dict (section 3.1). The width
is ours: 32 is the published network, whose names the blocks keep at every width. Axes are (N, C, z, y, x); published
weights are (x, y, z), and their importer permutes kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semgen_platform.errors import ConfigError
from semgen_platform.networks.heads import PatternHead
from semgen_platform.networks.norm import CropNorm, NormMode

PUBLISHED_WIDTH = 32
SHRINK = 8  # three poolings by two


class Unit(nn.Module):
    """Convolution 3x3x3 with bias, norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, norm: NormMode) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels_out, kernel_size=3, padding=1)
        self.bn1 = CropNorm(channels_out, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_out, z, y, x)."""
        return torch.relu(self.bn1(self.conv1(x)))


class Down(nn.Module):
    """Two units, the first with half the block's channels; pooling is the caller's."""

    def __init__(self, channels_in: int, channels_out: int, norm: NormMode) -> None:
        super().__init__()
        half = channels_out // 2
        self.ops = nn.Sequential(Unit(channels_in, half, norm), Unit(half, channels_out, norm))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_out, z, y, x)."""
        return self.ops(x)


class Up(nn.Module):
    """Transposed convolution that doubles the size, then the skip behind it on the channel axis, then two units."""

    def __init__(self, channels_in: int, channels_skip: int, norm: NormMode) -> None:
        super().__init__()
        self.up_conv = nn.ConvTranspose3d(channels_in, channels_in, kernel_size=2, stride=2)
        first = Unit(channels_in + channels_skip, channels_skip, norm)
        self.ops = nn.Sequential(first, Unit(channels_skip, channels_skip, norm))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, channels_skip, z, y, x) at the skip's size."""
        return self.ops(torch.cat((self.up_conv(x), skip), dim=1))


class Out(nn.Module):
    """One channel in (0, 1)."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.final_conv = nn.Conv3d(channels_in, 1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, z, y, x) in (0, 1)."""
        return torch.sigmoid(self.final_conv(x))


class Encoder(nn.Module):
    """The down path: four blocks with 2, 4, 8 and 16 times `width` channels, pooled by two between them."""

    def __init__(self, width: int = PUBLISHED_WIDTH, norm: NormMode = "running") -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ConfigError(f"width is {width}; give an even number of channels, 32 as published")
        self.width, self.norm = width, norm
        self.down_tr64 = Down(1, 2 * width, norm)
        self.down_tr128 = Down(2 * width, 4 * width, norm)
        self.down_tr256 = Down(4 * width, 8 * width, norm)
        self.down_tr512 = Down(8 * width, 16 * width, norm)

    def features(self, x: Tensor) -> list[Tensor]:
        """Outputs of the four blocks before pooling: three skips from fine to coarse, then the bottleneck.

        x : (N, 1, z, y, x) in [0, 1], each size divisible by eight. Raises ConfigError otherwise.
        """
        if x.ndim != 5 or x.shape[1] != 1 or any(size % SHRINK for size in x.shape[2:]):
            raise ConfigError(
                f"network input has shape {tuple(x.shape)}; give (N, 1, z, y, x) with sizes divisible by {SHRINK}"
            )
        outputs = [self.down_tr64(x)]
        for block in (self.down_tr128, self.down_tr256, self.down_tr512):
            outputs.append(block(nn.functional.max_pool3d(outputs[-1], 2)))
        return outputs

    def encode(self, x: Tensor) -> Tensor:
        """The bottleneck (N, 16 width, z/8, y/8, x/8) of x, (N, 1, z, y, x) in [0, 1]."""
        return self.features(x)[-1]

    def embed(self, x: Tensor) -> Tensor:
        """One vector per crop: the bottleneck averaged over space, (N, 16 width)."""
        return self.encode(x).mean(dim=(2, 3, 4))


class UNet3D(Encoder):
    """Encoder and decoder with skips; 19,073,665 parameters at width 32. Source: METHOD.md section 2."""

    def __init__(self, width: int = PUBLISHED_WIDTH, norm: NormMode = "running") -> None:
        super().__init__(width, norm)
        self.up_tr256 = Up(16 * width, 8 * width, norm)
        self.up_tr128 = Up(8 * width, 4 * width, norm)
        self.up_tr64 = Up(4 * width, 2 * width, norm)
        self.out_tr = Out(2 * width)

    def restore(self, features: list[Tensor]) -> Tensor:
        """(N, 1, z, y, x) in (0, 1) from what `features` gave."""
        fine, middle, coarse, bottleneck = features
        return self.out_tr(self.up_tr64(self.up_tr128(self.up_tr256(bottleneck, coarse), middle), fine))

    def forward(self, x: Tensor) -> Tensor:
        """The restored crop (N, 1, z, y, x) in (0, 1)."""
        return self.restore(self.features(x))


class SemanticGenesisNet(UNet3D):
    """The U-Net with a pattern head on its bottleneck, under the names of the published two-headed network."""

    def __init__(self, classes: int, width: int = PUBLISHED_WIDTH, norm: NormMode = "running") -> None:
        super().__init__(width, norm)
        self.clc_out = PatternHead(width, classes, norm)

    def forward(self, x: Tensor, restore: bool = True) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        """(logits (N, classes), restored crop (N, 1, z, y, x) in (0, 1), or None if it is not asked for)."""
        features = self.features(x)
        return self.clc_out(features[-1]), self.restore(features) if restore else None
