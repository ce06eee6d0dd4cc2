"""Random streams that are a function of numbers, so that any batch can be made again."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

_MASK = 2**64 - 1


def mix(*numbers: int) -> int:
    """A well-spread 63-bit number from `numbers` (SplitMix64, Steele et al., 2014, absorbed one at a time)."""
    state = 0
    for number in numbers:
        state = (state + (number & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator whose stream is a function of `numbers`."""
    return torch.Generator().manual_seed(mix(*numbers))


class GlobalStream:
    """A stream of its own for code that draws from the global generators (user datasets and their transforms).

    Inside :meth:`active` the global generators of torch (CPU), NumPy and Python continue this stream; outside they
    are as if nothing had been drawn.
    """

    def __init__(self, *numbers: int) -> None:
        seed = mix(*numbers)
        self._torch = torch.Generator().manual_seed(seed).get_state()
        self._random = random.Random(seed).getstate()
        self._numpy = np.random.RandomState(seed % 2**32).get_state()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Swap the stream in, and out again."""
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()
        torch.set_rng_state(self._torch)
        random.setstate(self._random)
        np.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._torch, self._random = torch.get_rng_state(), random.getstate()
            self._numpy = np.random.get_state()
            torch.set_rng_state(before[0])
            random.setstate(before[1])
            np.random.set_state(before[2])
