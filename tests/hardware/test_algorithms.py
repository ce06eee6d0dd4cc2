"""Which algorithm runs an operation: as PyTorch chooses, and learnt for each by itself."""

from __future__ import annotations

from dataclasses import replace

import hardware_fakes as fakes
import numpy as np
import pytest
import torch

from morphsearch.hardware.algorithms import FEW_ELEMENTS, ONE_IMAGE, ONE_IMAGE_THREADS, rule_of, ways
from morphsearch.hardware.fitting import FamilyFit, fit_family
from morphsearch.hardware.intact import require_whole
from morphsearch.hardware.measure import threads
from morphsearch.hardware.predictor import Predictor, fit
from morphsearch.hardware.settings import Settings
from morphsearch.hardware.work import row_of
from morphsearch.types import Observation

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


@needs_onednn
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("side", [7, 24, 40])
@pytest.mark.parametrize("channels", [12, 13, 35, 36, 160])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1)])
def test_the_rule_is_the_one_of_pytorch(kernel: int, stride: int, channels: int, side: int, count: int) -> None:
    x, weight = torch.zeros(1, channels, side, side), torch.zeros(8, channels, kernel, kernel)
    padding = [kernel // 2] * 2
    y = torch.nn.functional.conv2d(x, weight, stride=stride, padding=padding)
    with threads(count):
        chosen = torch._C._select_conv_backend(x, weight, None, [stride] * 2, padding, [1, 1], False, [0, 0], 1, None)
    seen = Observation("conv", (tuple(x.shape),), (tuple(y.shape),), (0.0,), weight=tuple(weight.shape), groups=1)
    family, row = row_of(seen)
    taken = ways({1: ONE_IMAGE, 2: ONE_IMAGE_THREADS}[count], family, np.array([row]))
    assert taken is not None
    assert bool(taken[0, 1]) == (chosen == torch._C._ConvBackend.Mkldnn)


@needs_onednn
def test_the_rule_holds_for_one_image_in_eager_on_a_processor() -> None:
    assert rule_of(Settings()) == ONE_IMAGE
    assert rule_of(Settings(threads=2)) == ONE_IMAGE_THREADS
    others = [Settings(batch=2), Settings("onnxruntime"), Settings(device="cuda"), Settings(dtype="bfloat16")]
    assert [rule_of(other) for other in others] == [""] * 4


def convolutions(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 3x3 convolutions, and seconds: what reads few elements runs at half the speed."""
    rng = np.random.default_rng(seed)
    c, o = rng.integers(8, 80, (2, count)).astype(float)
    made = rng.choice([144.0, 576.0, 2304.0], count)
    macs = made * o * c * 9
    rows = np.stack([c, o, c, np.full(count, 9.0), made, made, c * made, o * made, np.full(count, 1e5), 0 * c], axis=1)
    return rows, 5e-6 + macs / np.where(c * made <= FEW_ELEMENTS, 4e10, 8e10)


def test_a_step_between_algorithms_is_not_smoothed_over() -> None:
    seen, seconds = convolutions(300, 0)
    fresh, wanted = convolutions(200, 1)
    near = np.abs(np.log(fresh[:, 6] / FEW_ELEMENTS)) < 0.3
    ruled, plain = (
        np.abs(fit_family("conv", seen, seconds, rule=rule).seconds("conv", fresh) / wanted - 1)[near].mean()
        for rule in (ONE_IMAGE, "")
    )
    assert ruled < 0.02
    assert ruled < plain / 3


def test_one_algorithm_alone_is_learnt_too() -> None:
    seen, seconds = convolutions(300, 0)
    large = seen[:, 6] > FEW_ELEMENTS
    learnt = fit_family("conv", seen[large], seconds[large], rule=ONE_IMAGE)
    assert learnt.seconds("conv", seen[large]) == pytest.approx(seconds[large], rel=0.05)


def test_a_rule_is_saved_and_one_that_is_unknown_refused() -> None:
    samples = [replace(sample, rule=ONE_IMAGE) for sample in fakes.samples(fakes.target())]
    predictor = fit(samples)
    again = Predictor.from_dict(predictor.to_dict())
    require_whole(again)
    sample = samples[0]
    one, other = (p.network(sample.families, sample.rows, sample.steps) for p in (predictor, again))
    assert other == pytest.approx(one, rel=1e-6)
    again.families["conv"] = replace(again.families["conv"], rule="of another library")
    assert isinstance(again.families["conv"], FamilyFit)
    with pytest.raises(ValueError, match="conv"):
        require_whole(again)
