"""Which precision and memory format are quicker for this model on this device: measured, as no rule predicts it.

On CPUs with bf16 instructions a ResNet gains from bf16 and channels-last, a depthwise network loses.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.training.devices import flush_denormals, in_format, lay_out_channels_last, synchronize
from morphsearch.training.norms import quick_norms
from morphsearch.training.outputs import classification_loss
from morphsearch.training.recipe import Recipe

ROUNDS = (1, 6)  # at least and at most, as time allows: the best of each candidate counts, other load only adds
SECONDS = 8.0  # for the rounds
SHARE = 0.03  # of the whole training that the rounds may take
STEP_SECONDS = 0.4  # a probe step takes about this long at most: larger batches are probed with fewer images
STEP_SHARE = 0.002  # of the whole training that a probe step may take
WORTH_PROBING_SECONDS = 20.0  # shorter trainings are not worth it
BF16_GAIN = 1.10  # bf16 costs digits: it has to be this much quicker than the best of fp32
FORMAT_GAIN = 1.03


@dataclass(frozen=True)
class Choice:
    """What a training runs with. `measured`: seconds per probe step of each candidate, if they were measured."""

    precision: str
    channels_last: bool
    measured: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


Candidate = tuple[str, bool]


def choose(
    model: nn.Module, recipe: Recipe, shape: tuple[int, ...], classes: int, device: torch.device, images: int
) -> Choice:
    """Settle the recipe's ``"auto"`` entries for a training of `images` images of `shape` (`c, h, w`).

    Candidates train a deep copy for a few steps on random images. The model, its hooks' state and torch's random state
    are left as they are. Where there is nothing to choose, or the training is short, nothing is measured: fp32, and
    channels-last on CUDA only.
    """
    candidates = _candidates(model, recipe, device)
    if len(candidates) == 1:
        return Choice(*candidates[0])
    fallback = Choice(
        *(("fp32", device.type == "cuda") if ("fp32", device.type == "cuda") in candidates else candidates[0])
    )
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), flush_denormals():
        try:
            return _measure(model, recipe, shape, classes, device, images, candidates) or fallback
        except Exception:  # a model that cannot be copied, or cannot be trained: training itself will say why
            return fallback


def pick(measured: dict[Candidate, float]) -> Candidate:
    """The candidate to take given seconds per step: bf16 and channels-last only where they are clearly quicker."""
    handicap = {
        key: seconds * (BF16_GAIN if key[0] == "bf16" else 1.0) * (FORMAT_GAIN if key[1] else 1.0)
        for key, seconds in measured.items()
    }
    return min(handicap, key=lambda key: handicap[key])


def _candidates(model: nn.Module, recipe: Recipe, device: torch.device) -> list[Candidate]:
    precisions = ["fp32", "bf16"] if recipe.precision == "auto" else [recipe.precision]
    if recipe.precision == "auto" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        precisions = ["fp32"]
    formats = [False, True] if recipe.channels_last == "auto" else [bool(recipe.channels_last)]
    if recipe.channels_last == "auto" and not any(parameter.ndim == 4 for parameter in model.parameters()):
        formats = [False]
    return [(precision, channels_last) for precision in precisions for channels_last in formats]


def _measure(
    model: nn.Module,
    recipe: Recipe,
    shape: tuple[int, ...],
    classes: int,
    device: torch.device,
    images: int,
    candidates: list[Candidate],
) -> Choice | None:
    small = min(recipe.batch_size, 8)
    warm = _stepper(model, ("fp32", False), (small, *shape), classes, device)
    warm()
    per_image = warm() / small
    training = per_image * images
    if training < WORTH_PROBING_SECONDS:
        return None
    batch = max(small, min(recipe.batch_size, int(min(STEP_SECONDS, STEP_SHARE * training) / per_image)))
    del warm
    steppers: dict[Candidate, Callable[[], float]] = {}
    for candidate in candidates:
        try:
            stepper = _stepper(model, candidate, (batch, *shape), classes, device)
            stepper()
            steppers[candidate] = stepper
        except Exception:
            continue  # e.g. an operation without a bf16 kernel
    if not steppers:
        return None
    times: dict[Candidate, list[float]] = {candidate: [] for candidate in steppers}
    end = time.perf_counter() + min(SECONDS, SHARE * training)
    for done in range(ROUNDS[1]):
        if done >= ROUNDS[0] and time.perf_counter() > end:
            break
        for candidate, stepper in steppers.items():  # interleaved, so that other load on the machine meets all alike
            times[candidate].append(stepper())
    best = {candidate: min(seconds) for candidate, seconds in times.items()}
    record = {_name(candidate): seconds for candidate, seconds in best.items()}
    return Choice(*pick(best), measured=record)


def _stepper(
    model: nn.Module, candidate: Candidate, shape: tuple[int, ...], classes: int, device: torch.device
) -> Callable[[], float]:
    """A function that trains a copy of the model for one step and returns the seconds that took."""
    precision, channels_last = candidate
    probe = copy.deepcopy(model)
    for module in probe.modules():  # observers of the run must not see the probe; pre-hooks may make the weights
        module._forward_hooks.clear()
        module._backward_hooks.clear()
    probe.to(device).train()
    if channels_last:
        lay_out_channels_last(probe)
    generator = torch.Generator().manual_seed(0)
    inputs = in_format(torch.randn(shape, generator=generator).to(device), channels_last)
    targets = torch.randint(classes, shape[:1], generator=generator).to(device)
    parameters = [parameter for parameter in probe.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9)

    def step() -> float:
        synchronize(device)
        start = time.perf_counter()
        with quick_norms(device, channels_last):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                output = probe(inputs)
            loss: Tensor = classification_loss(output, targets)[0]
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        return time.perf_counter() - start

    return step


def _name(candidate: Candidate) -> str:
    return candidate[0] + (" channels_last" if candidate[1] else "")
