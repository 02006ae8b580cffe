"""The loss of Semantic Genesis: 0.01 cross-entropy + 1.0 mean squared error. Source: METHOD.md section 4.4."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the two terms when both are trained."""

    classification: float = 0.01
    restoration: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Perturbed crops and what they were, (N, 1, z, y, x) in [0, 1], with their patterns, (N,) int64."""

    perturbed: Tensor
    target: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Losses:
    """Means over a batch, each a scalar tensor; restoration is 0 where only the classifier is trained."""

    total: Tensor
    classification: Tensor
    restoration: Tensor
    accuracy: Tensor


def measure(network: nn.Module, batch: Batch, weights: LossWeights, *, restore: bool) -> Losses:
    """Losses of one batch; without `restore` the decoder does not run and the total is the cross-entropy alone."""
    logits, restored = network(batch.perturbed, restore=restore)
    classification = functional.cross_entropy(logits, batch.labels)
    accuracy = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
    if restored is None:
        return Losses(classification, classification, torch.zeros_like(classification), accuracy)
    restoration = functional.mse_loss(restored, batch.target)
    total = weights.classification * classification + weights.restoration * restoration
    return Losses(total, classification, restoration, accuracy)
