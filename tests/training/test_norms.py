"""Batch norms by long rows compute what torch's own do."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from morphsearch.data import load
from morphsearch.training import Recipe, Trainer, norms, reestimate_batchnorm
from morphsearch.training.norms import fold_of, quick_norms

CPU = torch.device("cpu")
NATIVE = functional.batch_norm
Shape = tuple[int, int, int, int]


def images(shape: Shape, seed: int = 0) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3 + 2
    return drawn.contiguous(memory_format=torch.channels_last)


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.3)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, channels))
        norm.bias.copy_(torch.linspace(0, 1, channels))
    return norm


def trained(norm: nn.Module, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Output, gradients and statistics of one step, in double precision."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = norm(x)
    y.backward(gradient)
    found = {"y": y, "x.grad": x.grad, **norm.state_dict()}
    found |= {f"{name}.grad": p.grad for name, p in norm.named_parameters()}
    return {name: value.detach().double() for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    "shape", [(32, 6, 32, 32), (8, 22, 32, 32), (32, 19, 16, 16), (2, 1, 256, 512), (26, 5, 36, 36)]
)
def test_it_is_a_batch_norm_to_rounding(shape: Shape) -> None:
    x, gradient = images(shape), images(shape, 1)
    assert fold_of(x) > 1
    exact = trained(norm_of(shape[1]).double(), x.double(), gradient.double())
    with quick_norms(CPU, channels_last=True):
        quick = trained(norm_of(shape[1]), x, gradient)
    native = trained(norm_of(shape[1]), x, gradient)
    for name, value in exact.items():
        error, usual = ((found[name] - value).abs().max() for found in (quick, native))
        assert error <= 2 * usual + 5e-6 * value.abs().max(), name


def test_a_gradient_of_another_layout_and_frozen_scales() -> None:
    x = images((32, 6, 32, 32)).requires_grad_()
    norm = norm_of(6)
    norm.weight.requires_grad_(False)
    with quick_norms(CPU, channels_last=True):
        y = norm(x)
    assert "Folded" in type(y.grad_fn).__name__
    y.mean((2, 3)).square().sum().backward()
    ours, x.grad, bias, norm.bias.grad = x.grad, None, norm.bias.grad, None
    norm(x).mean((2, 3)).square().sum().backward()
    assert norm.weight.grad is None
    assert x.grad is not None
    assert ours is not None
    torch.testing.assert_close(ours, x.grad, rtol=1e-3, atol=1e-4 * float(x.grad.abs().max()))
    torch.testing.assert_close(bias, norm.bias.grad, rtol=1e-4, atol=1e-4)


def test_what_follows_may_work_in_place() -> None:
    norm = norm_of(6)
    with quick_norms(CPU, channels_last=True):
        y = functional.relu(norm(images((32, 6, 32, 32)).requires_grad_()), inplace=True)
    y.sum().backward()
    assert norm.weight.grad is not None


@pytest.mark.parametrize(
    "x",
    [
        images((32, 8, 32, 32)),
        images((8, 41, 32, 32)),
        images((2, 6, 8, 8)),
        images((32, 6, 32, 32)).double(),
        images((32, 6, 32, 32)).contiguous(),
        images((27, 5, 33, 33)),
        images((32, 6, 32, 32))[:, :, 1:],
    ],
    ids=["whole vectors", "many channels", "small", "double", "another order", "odd number of pixels", "a part"],
)
def test_all_else_is_left_to_torch(x: Tensor) -> None:
    norm, other = norm_of(x.shape[1]).to(x.dtype), norm_of(x.shape[1]).to(x.dtype)
    with quick_norms(CPU, channels_last=True):
        ours = norm(x)
    assert torch.equal(ours, other(x))
    assert torch.equal(norm.running_var, other.running_var)  # type: ignore[arg-type]


def test_evaluation_and_norms_without_scales_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "fold_of", lambda images: pytest.fail("asked"))
    with quick_norms(CPU, channels_last=True):
        norm_of(6).eval()(images((32, 6, 32, 32)))
        nn.BatchNorm2d(6, affine=False)(images((32, 6, 32, 32)))


def test_torch_has_its_own_back() -> None:
    with pytest.raises(KeyboardInterrupt), quick_norms(CPU, channels_last=True):
        with quick_norms(CPU, channels_last=True):
            assert functional.batch_norm is norms.batch_norm
        assert functional.batch_norm is norms.batch_norm
        raise KeyboardInterrupt
    assert functional.batch_norm is NATIVE
    for device, channels_last in ((torch.device("cuda"), True), (CPU, False)):
        with quick_norms(device, channels_last):
            assert functional.batch_norm is NATIVE


def test_threads_that_overlap_leave_torchs_own() -> None:
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with quick_norms(CPU, channels_last=True):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(60)
    with quick_norms(CPU, channels_last=True):
        leave.set()
        thread.join()
        assert functional.batch_norm is norms.batch_norm
    assert functional.batch_norm is NATIVE


def network() -> nn.Module:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 9, 3, padding=1)
    return nn.Sequential(*convolutions, nn.BatchNorm2d(9), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The layouts that norms were asked to fold and did."""
    folded = []

    def spy(x: Tensor) -> int:
        fold = fold_of(x)
        folded.extend([x.shape] if fold > 1 else [])
        return fold

    monkeypatch.setattr(norms, "fold_of", spy)
    return folded


def test_trainings_go_by_it_and_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("digits")
    recipe = Recipe(epochs=1, batch_size=256, device="cpu", precision="fp32", channels_last=True, lr=0.05)
    folded = counted(monkeypatch)
    ours = Trainer(network(), data, recipe)
    ours.train_epoch()
    assert len(folded) == ours.step - 1 > 0  # the last batch of an epoch is small
    reestimate_batchnorm(ours.model, data.train, batches=2, batch_size=256)
    assert len(folded) == ours.step + 1
    monkeypatch.setattr(norms, "fold_of", lambda images: 1)
    theirs = Trainer(network(), data, recipe)
    theirs.train_epoch()
    reestimate_batchnorm(theirs.model, data.train, batches=2, batch_size=256)
    for name, value in ours.model.state_dict().items():
        torch.testing.assert_close(value, theirs.model.state_dict()[name], rtol=1e-3, atol=1e-5)
    assert functional.batch_norm is NATIVE


class Checkpointed(nn.Module):
    """A network that keeps no activations of its inside, and runs it again on the way back."""

    def __init__(self) -> None:
        super().__init__()
        layers = network()
        assert isinstance(layers, nn.Sequential)
        self.inner, self.outer = layers[:3], layers[3:]

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(checkpoint(self.inner, x, use_reentrant=False))  # type: ignore[no-any-return]


def test_activation_checkpoints_meet_the_same_norms_on_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    folded = counted(monkeypatch)
    recipe = Recipe(epochs=1, batch_size=256, device="cpu", precision="fp32", channels_last=True, lr=0.05)
    trainer = Trainer(Checkpointed(), load("digits"), recipe)
    trainer.train_epoch()
    assert len(folded) == 2 * (trainer.step - 1)


def test_trainings_in_the_usual_order_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    folded = counted(monkeypatch)
    recipe = Recipe(epochs=1, batch_size=256, device="cpu", precision="fp32", channels_last=False)
    Trainer(network(), load("digits"), recipe).train_epoch()
    assert not folded
