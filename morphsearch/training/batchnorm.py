"""Batch-norm statistics after the weights have changed under them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from morphsearch.training.devices import device_of, flush_denormals, in_format, is_channels_last
from morphsearch.training.evaluation import evaluating
from morphsearch.training.norms import quick_norms

if TYPE_CHECKING:
    from morphsearch.data import Split


def reestimate_batchnorm(
    model: nn.Module, split: Split, *, batches: int = 20, batch_size: int = 128, seed: int = 0
) -> None:
    """Replace running means and variances by their plain average over `batches` batches of `split` (use training data).

    All of the model but its batch norms is in eval mode (no dropout), images are shuffled by `seed` and not augmented.
    Batch norms that see no batch, as in branches that run in training only, keep the statistics they had. Training
    flags, momenta, gradients and torch's random state are as before. Does nothing without batch norms that track
    statistics.

    Source: Yu & Huang 2019 (universally slimmable networks), section 3.3; torch's ``momentum=None`` is that average.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    if not norms:
        return
    size = min(batch_size, len(split))
    device, channels_last = device_of(model), is_channels_last(model)
    before = [(norm, norm.momentum, _statistics(norm)) for norm in norms]
    with evaluating(model), torch.no_grad(), flush_denormals(), quick_norms(device, channels_last):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            stream = split.batches(size, shuffle_seed=seed, augment=False, device=device, drop_last=True)
            for _, (images, _) in zip(range(batches), stream, strict=False):
                model(in_format(images, channels_last))
        except BaseException:
            for norm, _, statistics in before:
                _restore(norm, statistics)
            raise
        finally:
            for norm, momentum, _ in before:
                norm.momentum = momentum
        for norm, _, statistics in before:
            if not norm.num_batches_tracked:
                _restore(norm, statistics)
            else:
                # momentum may be None for good: then the count weighs what comes next, as after ordinary training
                norm.num_batches_tracked.copy_(statistics[2])


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    return norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()


def _restore(norm: _BatchNorm, statistics: tuple[Tensor, Tensor, Tensor]) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.running_mean.copy_(statistics[0])
    norm.running_var.copy_(statistics[1])
    norm.num_batches_tracked.copy_(statistics[2])
