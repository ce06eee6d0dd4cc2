"""Processes that train together (``torch.distributed``): what each sees of the data is averaged, so that all decide
alike.

``DistributedDataParallel`` averages the gradients of parameters. What a strategy takes from gradients before that, or
from gradients of its own, and losses on held-out data are of one process's data alone.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ranks() -> int:
    """How many processes there are: 1 without a process group."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return torch.distributed.get_world_size()


def mean_over_ranks(value: Tensor | None, like: Tensor) -> Tensor | None:
    """The mean of `value` over the processes that have one; None where none has.

    Every process has to call it. Without a process group it is `value` itself.

    Args:
        like: its shape and device, for a process that has none.
    """
    if ranks() == 1:
        return value
    part = torch.zeros_like(like, dtype=torch.float32) if value is None else value.detach().float()
    sent = torch.cat([part.flatten(), part.new_full((1,), float(value is not None))])
    torch.distributed.all_reduce(sent)
    count = float(sent[-1])
    return (sent[:-1] / count).view_as(part).to(like.dtype) if count else None


def mean_loss(loss: float) -> float:
    """The mean of a loss over the processes, each of which has to call it."""
    if ranks() == 1:
        return loss
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    sent = torch.tensor([loss], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(sent)
    return float(sent) / ranks()
