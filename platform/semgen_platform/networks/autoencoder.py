"""The auto-encoder that embeds whole scans for search and discovery.

Without skips, so that all it restores has passed the bottleneck that is the embedding (METHOD.md section 5b, step 0;
the published one had skips and could copy: section 5.2, fault 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semgen_platform.networks.norm import NormMode
from semgen_platform.networks.unet3d import PUBLISHED_WIDTH, Encoder, Unit


class AutoEncoder(Encoder):
    """The U-Net's down path, then three times nearest up-sampling and a unit, a 1x1x1 convolution and a sigmoid.

    `embed` (of the encoder) gives the vector of 16 width values.
    """

    def __init__(self, width: int = PUBLISHED_WIDTH, norm: NormMode = "running") -> None:
        super().__init__(width, norm)
        self.up = nn.ModuleList(Unit(2 * channels, channels, norm) for channels in (8 * width, 4 * width, 2 * width))
        self.final_conv = nn.Conv3d(2 * width, 1, kernel_size=1)

    def decode(self, bottleneck: Tensor) -> Tensor:
        """(N, 1, z, y, x) in (0, 1) from (N, 16 width, z/8, y/8, x/8)."""
        x = bottleneck
        for unit in self.up:
            x = unit(nn.functional.interpolate(x, scale_factor=2, mode="nearest"))
        return torch.sigmoid(self.final_conv(x))

    def forward(self, x: Tensor) -> Tensor:
        """The scan as the bottleneck remembers it, (N, 1, z, y, x) in (0, 1), from (N, 1, z, y, x) in [0, 1]."""
        return self.decode(self.encode(x))
