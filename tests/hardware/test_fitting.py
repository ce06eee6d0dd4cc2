"""What is learnt of one family of operations, from times that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from morphsearch.hardware.fitting import fit_family


def elementwise(channels: np.ndarray, positions: float) -> np.ndarray:
    """Rows of operations without filters."""
    none = np.zeros_like(channels)
    elements = channels * positions
    return np.stack([channels, channels, none, none, none, none, elements, elements, none, none], axis=1)


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
        return np.stack([c, o, c, one, made, made, c * made, o * made, resident, 0 * c], axis=1)

    def seconds(rows: np.ndarray) -> np.ndarray:
        own = rows[:, 1] * rows[:, 2]
        return 1e-6 + 9 * own / 1e11 + own * np.where(rows[:, 8] > 2**20, 2e-10, 0.0)

    seen, fresh = rows(200), rows(60)
    fresh = fresh[np.abs(np.log2(fresh[:, 8]) - 20) > 1]
    fit = fit_family("conv_1x1", seen, seconds(seen))
    assert np.abs(fit.seconds("conv_1x1", fresh) / seconds(fresh) - 1).mean() < 0.05


def test_images_of_another_size_take_another_time_though_they_have_as_many_elements() -> None:
    rng = np.random.default_rng(0)

    def seconds(rows: np.ndarray) -> np.ndarray:
        return 1e-6 + rows[:, 6] * np.where(rows[:, 6] / rows[:, 0] > 100, 2e-8, 8e-9)

    seen = np.concatenate([elementwise(rng.integers(8, 300, 60).astype(float), side**2) for side in (4, 8, 16, 32)])
    fit = fit_family("max_pool", seen, seconds(seen))
    fresh = np.concatenate([elementwise(np.array([36.0, 122.0]), side**2) for side in (8, 16)])
    assert np.abs(fit.seconds("max_pool", fresh) / seconds(fresh) - 1).mean() < 0.1


def one_by_one(c: np.ndarray, o: np.ndarray, made: float) -> np.ndarray:
    """Rows of 1x1 convolutions."""
    same = np.full_like(c, made)
    return np.stack([c, o, c, np.ones_like(c), same, same, c * made, o * made, np.full_like(c, 1e5), 0 * c], axis=1)


def test_fewer_channels_than_a_vector_are_another_matter() -> None:
    rng = np.random.default_rng(0)

    def seconds(rows: np.ndarray) -> np.ndarray:
        return 1e-6 + 576 * rows[:, 0] * rows[:, 1] / np.where(rows[:, 0] < 16, 2e10, 1e11)

    seen = one_by_one(4.0 * rng.integers(1, 20, 150), 4.0 * rng.integers(2, 40, 150), 576.0)
    fit = fit_family("conv_1x1", seen, seconds(seen))
    fresh = one_by_one(np.array([12.0, 16.0]), np.array([60.0, 60.0]), 576.0)
    assert fit.seconds("conv_1x1", fresh) == pytest.approx(seconds(fresh), rel=0.1)


def test_what_never_changed_is_a_constant_and_no_price_of_outputs() -> None:
    """Classifiers of ten classes tell nothing of what an output costs beside its filters."""
    thousand = one_by_one(np.array([400.0]), np.array([1000.0]), 1.0)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        inputs = np.rint(np.exp(rng.uniform(3.5, 6.8, 60)))
        ten = one_by_one(inputs, np.full_like(inputs, 10.0), 1.0)
        ten[:, 8] = 2 ** rng.uniform(16, 22, 60)
        seconds = (2e-5 + 1e-10 * ten[:, 0] * ten[:, 1]) * np.exp(rng.normal(0, 0.1, 60))
        assert fit_family("linear", ten, seconds).seconds("linear", thousand)[0] < 3 * (2e-5 + 1e-10 * 4e5)


def test_what_goes_over_the_results_again_is_paid_by_those_that_do() -> None:
    rng = np.random.default_rng(0)

    def rows(count: int) -> np.ndarray:
        found = one_by_one(16.0 * rng.integers(1, 20, count), 16.0 * rng.integers(1, 40, count), 576.0)
        found[:, 9] = np.where(rng.random(count) < 0.3, found[:, 7], 0)
        return found

    def seconds(rows: np.ndarray) -> np.ndarray:
        return 1e-6 + 576 * rows[:, 0] * rows[:, 1] / 1e11 + 8e-11 * rows[:, 9]

    seen = rows(200)
    fit = fit_family("conv_1x1", seen, seconds(seen))
    fresh = one_by_one(np.array([16.0, 16.0]), np.array([400.0, 400.0]), 576.0)
    fresh[1, 9] = fresh[1, 7]
    assert fit.seconds("conv_1x1", fresh) == pytest.approx(seconds(fresh), rel=0.05)
