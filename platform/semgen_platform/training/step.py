"""One optimiser step and one measurement: plain functions of a network and a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from semgen_platform.training.losses import Batch, Losses, LossWeights, measure


def train_step(
    network: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, weights: LossWeights, *, restore: bool
) -> tuple[Losses, bool]:
    """(losses before the step, whether it was taken); without finite gradients network and optimiser stay as they are.

    `network` may be wrapped in DDP: gradients are then the same on all ranks, and so is the decision.
    """
    buffers = list(network.buffers())
    before = [b.clone() for b in buffers]  # one bad crop would poison the running averages for ever
    optimiser.zero_grad(set_to_none=True)
    losses = measure(network, batch, weights, restore=restore)
    losses.total.backward()
    finite = all_finite([p.grad for p in network.parameters() if p.grad is not None])
    if finite:
        optimiser.step()
    else:
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(old)
    return losses, finite


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no value in any of them is infinite or NaN."""
    return bool(torch.stack([t.isfinite().all() for t in tensors]).all())


def sum_of_losses(network: nn.Module, batches: Iterable[Batch], weights: LossWeights, *, restore: bool) -> Tensor:
    """(5,) float64: sums over crops of total, classification, restoration and accuracy, and the number of crops."""
    network.eval()
    sums = torch.zeros(5, dtype=torch.float64)
    with torch.no_grad():
        for batch in batches:
            crops = len(batch.labels)
            losses = measure(network, batch, weights, restore=restore)
            sums += crops * torch.cat([as_vector(losses).double().cpu(), torch.ones(1, dtype=torch.float64)])
    return sums


def as_vector(losses: Losses) -> Tensor:
    """(4,): total, classification, restoration, accuracy."""
    return torch.stack([losses.total, losses.classification, losses.restoration, losses.accuracy]).detach()
