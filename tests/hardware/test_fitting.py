"""What is learnt of one family of operations, from times that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from morphsearch.hardware.fitting import fit_family


def elementwise(channels: np.ndarray, positions: float) -> np.ndarray:
    """Rows of operations without filters."""
    none = np.zeros_like(channels)
    elements = channels * positions
    return np.stack([channels, channels, none, none, none, none, elements, elements, none], axis=1)


def test_a_surcharge_seen_on_tiny_operations_is_not_put_on_large_ones() -> None:
    rng = np.random.default_rng(0)
    large = elementwise(4.0 * rng.integers(2, 40, 120), 900.0)
    tiny = elementwise(rng.choice([1.0, 2.0, 3.0, 5.0, 6.0, 7.0], 24), 1.0)
    rows = np.concatenate([large, tiny])
    seconds = 1e-6 + 4e-10 * rows[:, 6]
    seconds[len(large) :] = rng.uniform(3e-6, 8e-6, len(tiny))  # clocks and calls, not elements
    fit = fit_family("silu", rows, seconds)
    uneven = elementwise(np.array([41.0, 101.0, 155.0]), 900.0)
    wanted = 1e-6 + 4e-10 * uneven[:, 6]
    assert (fit.seconds("silu", uneven) < 3 * wanted).all()


def test_a_surcharge_seen_on_large_operations_counts() -> None:
    rng = np.random.default_rng(0)
    rows = elementwise(rng.integers(8, 160, 200).astype(float), 900.0)
    uneven = rows[:, 0] % 4 != 0
    seconds = 1e-6 + 4e-10 * rows[:, 6] * np.where(uneven, 3.0, 1.0)
    fit = fit_family("silu", rows, seconds)
    odd, even = fit.seconds("silu", elementwise(np.array([101.0, 100.0]), 900.0))
    assert 2.5 < odd / even < 3.5


def test_what_all_large_operations_had_is_free_for_none() -> None:
    """Where all widths that were seen divide by 4, nothing tells what those that do not would save."""
    rng = np.random.default_rng(0)
    rows = elementwise(4.0 * rng.integers(2, 40, 120), 900.0)
    fit = fit_family("silu", rows, 1e-6 + 4e-10 * rows[:, 6])
    uneven = elementwise(np.array([41.0, 101.0, 155.0]), 900.0)
    assert fit.seconds("silu", uneven) == pytest.approx(1e-6 + 4e-10 * uneven[:, 6], rel=0.2)


def test_filters_come_from_memory_where_those_of_the_network_fit_no_cache() -> None:
    rng = np.random.default_rng(0)

    def rows(count: int) -> np.ndarray:
        c, o = 16.0 * rng.integers(2, 30, (2, count))
        made, one, resident = np.full(count, 9.0), np.ones(count), 2.0 ** rng.uniform(16, 24, count)
        return np.stack([c, o, c, one, made, made, c * made, o * made, resident], axis=1)

    def seconds(rows: np.ndarray) -> np.ndarray:
        own = rows[:, 1] * rows[:, 2]
        return 1e-6 + 9 * own / 1e11 + own * np.where(rows[:, 8] > 2**20, 2e-10, 0.0)

    seen, fresh = rows(200), rows(60)
    fresh = fresh[np.abs(np.log2(fresh[:, 8]) - 20) > 1]
    fit = fit_family("conv_1x1", seen, seconds(seen))
    assert np.abs(fit.seconds("conv_1x1", fresh) / seconds(fresh) - 1).mean() < 0.05
