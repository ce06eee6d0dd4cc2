"""An einsum of two operands as one product of matrices, at any width.

PyTorch multiplies and sums instead where a size is one, which a width may be.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor


def as_matrices(equation: str, a: Tensor, b: Tensor) -> Tensor | None:
    """``einsum(equation, a, b)``; None where it is more than one product of matrices."""
    inputs, arrow, out = equation.replace(" ", "").partition("->")
    first, _, second = inputs.partition(",")
    words = (first, second, out)
    if not arrow or not first or not second or not all(word.isalpha() or not word for word in words):
        return None
    if any(len(set(word)) < len(word) for word in words) or set(out) - set(first + second):
        return None
    size = dict(zip(first, a.shape, strict=True))
    if any(size.setdefault(letter, length) != length for letter, length in zip(second, b.shape, strict=True)):
        return None
    batch = [letter for letter in out if letter in first and letter in second]
    rows = [letter for letter in out if letter in first and letter not in second]
    columns = [letter for letter in out if letter in second and letter not in first]
    summed = [letter for letter in first if letter in second and letter not in out]
    if len(batch + rows + summed) < len(first) or len(batch + columns + summed) < len(second):
        return None  # a letter of one operand alone is summed
    n, m, k, o = (prod(size[letter] for letter in letters) for letters in (batch, rows, summed, columns))
    left = a.permute([first.index(letter) for letter in batch + rows + summed])
    right = b.permute([second.index(letter) for letter in batch + summed + columns])
    if batch:
        result = torch.bmm(left.reshape(n, m, k), right.reshape(n, k, o))
    else:
        result = torch.mm(left.reshape(m, k), right.reshape(k, o))
    made = batch + rows + columns
    return result.reshape([size[letter] for letter in made]).permute([made.index(letter) for letter in out])
