"""How many processes train together and what they agree on. Without a process group there is one rank."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train one network."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """The place in torch's default process group, or a world of one where there is none."""
        if not distributed.is_available() or not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this rank writes what all ranks know."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over all ranks, the same on each; every rank must call it."""
        if self.world == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total

    def mean(self, values: Tensor) -> Tensor:
        """Element-wise mean over all ranks, the same on each; every rank must call it."""
        return self.sum(values) / self.world

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over the ranks (DDP), or itself in a world of one.

        DDP gives every rank the first rank's weights. It leaves buffers alone: the loop averages them after each step.
        """
        if self.world == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)
