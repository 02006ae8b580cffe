"""Heads on the bottleneck. Source: METHOD.md section 2 (`clc_out`) and 3.1 (names)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semgen_platform.networks.norm import CropNorm, NormMode


class PatternHead(nn.Module):
    """Logits over the discovered patterns: 3x3x3 convolution to 32 width channels, norm, ReLU, mean over space, linear.

    It gives logits, not the published softmax: the loss takes a log-softmax of them, which cannot reach log 0.
    """

    def __init__(self, width: int, classes: int, norm: NormMode = "running") -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(16 * width, 32 * width, kernel_size=3, padding=1)
        self.bn1 = CropNorm(32 * width, norm)
        self.fc1 = nn.Linear(32 * width, classes)

    def forward(self, bottleneck: Tensor) -> Tensor:
        """(N, classes) from (N, 16 width, z, y, x)."""
        hidden = torch.relu(self.bn1(self.conv1(bottleneck)))
        return self.fc1(hidden.mean(dim=(2, 3, 4)))
