"""Which crops a step reads: a pure function of (seed, epoch, index), so resuming is a lookup.

The order is global. A batch is cut from it first and dealt to the ranks then, so the crops of a step do not depend on
the number of ranks, every rank has equally many batches (unequal ones hang in a collective), and no two ranks read the
same crop.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semgen_platform.errors import ConfigError
from semgen_platform.ids import uniform_stream

Indices = NDArray[np.int64]


def epoch_order(seed: int, epoch: int, samples: int) -> Indices:
    """All samples once, (samples,), in the order of this epoch."""
    return uniform_stream("epoch order", seed, epoch).permutation(samples)


def batches_in(samples: int, batch_size: int) -> int:
    """Batches of an epoch of so many samples; a last one that is not full is filled up, not dropped."""
    return -(-samples // batch_size)


def batch_of(order: Indices, batch: int, batch_size: int) -> Indices:
    """The samples (batch_size,) of one batch over all ranks; the last one is filled up with the first of the order."""
    return order[np.arange(batch * batch_size, (batch + 1) * batch_size) % len(order)]


def share_of_rank(samples: Indices, rank: int, world: int) -> Indices:
    """The samples of one rank: every world-th from its own number on."""
    return samples[rank::world]


def check_batches(samples: int, batch_size: int, world: int) -> None:
    """Raise ConfigError if ranks could not get equal shares of full batches."""
    if batch_size % world:
        raise ConfigError(f"batch_size {batch_size} cannot be dealt to {world} workers; give a multiple of {world}")
    if samples < batch_size:
        raise ConfigError(
            f"{samples} training crops do not fill one batch of {batch_size}; lower batch_size or discover more"
        )
