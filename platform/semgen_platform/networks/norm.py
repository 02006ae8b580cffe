"""The normalisation of every unit, in three modes that share one state dict.

The published code keeps running averages but never uses them: its outputs depend on the other crops of the batch
(METHOD.md section 2). That is the mode `batch`; the other two give answers that do not depend on the batch.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

from semgen_platform.errors import ConfigError

NormMode = Literal["batch", "running", "instance"]


class CropNorm(nn.BatchNorm3d):
    """Batch normalisation with affine weights (momentum 0.1, eps 1e-5) over (N, C, z, y, x).

    mode : "batch" takes the statistics of the batch in training and in evaluation alike, and moves the running averages
        on every pass, as the published code does (parity with published weights only); "running" is ordinary batch
        normalisation; "instance" takes each crop's own statistics, which equals "batch" with a batch of one.
    Raises ConfigError for another mode.
    """

    def __init__(self, channels: int, mode: NormMode) -> None:
        if mode not in get_args(NormMode):
            raise ConfigError(f"norm is {mode!r}; give one of {', '.join(get_args(NormMode))}")
        super().__init__(channels)
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        """The normalised features, same shape."""
        if self.mode == "running":
            return super().forward(x)
        if self.mode == "instance":
            return functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=True, momentum=0.1, eps=self.eps
        )
