"""The order of crops is a pure function of (seed, epoch, index) and independent of the number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semgen_platform.errors import ConfigError
from semgen_platform.training.sampling import batch_of, batches_in, check_batches, epoch_order, share_of_rank


def test_every_epoch_holds_each_crop_once_in_an_order_of_its_own() -> None:
    orders = [epoch_order(3, epoch, 50) for epoch in range(4)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert not np.array_equal(epoch_order(4, 0, 50), orders[0])
    assert np.array_equal(epoch_order(3, 0, 50), orders[0])


def test_the_order_is_the_same_on_every_machine_and_for_good() -> None:
    """Written down: a change of this line changes every run id's weights, so it needs a new recipe revision."""
    assert epoch_order(0, 0, 8).tolist() == [6, 7, 5, 0, 3, 4, 1, 2]


@given(st.integers(1, 60), st.sampled_from([1, 2, 3, 4]), st.integers(1, 5))
def test_ranks_share_each_batch_equally_and_no_crop_twice(samples: int, world: int, per_rank: int) -> None:
    size = world * per_rank
    if samples < size:
        with pytest.raises(ConfigError, match="do not fill one batch"):
            check_batches(samples, size, world)
        return
    check_batches(samples, size, world)
    order = epoch_order(1, 2, samples)
    seen: list[int] = []
    for batch in range(batches_in(samples, size)):
        together = batch_of(order, batch, size)
        shares = [share_of_rank(together, rank, world) for rank in range(world)]
        assert {len(share) for share in shares} == {per_rank}
        assert len(set(np.concatenate(shares))) == size
        assert sorted(np.concatenate(shares)) == sorted(together)
        seen.extend(together)
    assert set(seen) == set(range(samples))  # the last batch is filled up, not dropped


def test_published_epoch_has_413_steps() -> None:
    assert batches_in(44 * 200 * 3, 64) == 413


def test_a_batch_that_the_workers_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size 7 cannot be dealt to 2 workers"):
        check_batches(100, 7, 2)
