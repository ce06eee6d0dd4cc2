"""What cannot be recorded gets an error in three parts; what is merely unusual works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphsearch.errors import GraphError
from morphsearch.graph import record
from morphsearch.loop import verify
from tests.graph import proofs
from tests.graph.mechanisms import cbr, conv, head, net

IMAGE = torch.zeros(2, 3, 8, 8)


def refused(model: Any, inputs: Any = IMAGE) -> GraphError:
    with pytest.raises(GraphError) as caught:
        record(model, inputs)
    assert caught.value.arrived
    assert caught.value.rule
    assert caught.value.repair
    return caught.value


def small() -> nn.Module:
    return nn.Sequential(cbr(3, 8), cbr(8, 6), head(6))


@pytest.mark.parametrize("thing", [None, "resnet18", nn.Conv2d, {"weight": torch.zeros(1)}, lambda x: x])
def test_not_a_module(thing: Any) -> None:
    assert "must be a torch.nn.Module" in refused(thing).rule


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted() -> None:
    assert "scripted" in refused(torch.jit.script(small())).arrived


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_inside() -> None:
    model = nn.Sequential(cbr(3, 8), torch.jit.script(cbr(8, 6)), head(6))
    assert "scripted" in refused(model).arrived


def test_lazy() -> None:
    assert "0.weight" in refused(nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU())).arrived


def test_wrong_channels() -> None:
    error = refused(small(), torch.zeros(1, 4, 8, 8))
    assert "(1, 4, 8, 8)" in error.arrived


def test_wrong_number_of_arguments() -> None:
    assert "forward" in refused(small(), (IMAGE, IMAGE)).arrived
    assert "number of arguments" in refused(small(), (IMAGE, IMAGE)).repair


def test_an_input_that_is_not_given() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor, *, mask: torch.Tensor) -> torch.Tensor:
            return self.conv(x) * mask

    error = refused(Two(), IMAGE)
    assert "mask" in error.arrived
    assert "all its inputs" in error.repair


@pytest.mark.parametrize("inputs", [None, 3, "1,3,8,8", np.zeros((1, 3, 8, 8))])
def test_inputs_of_another_kind(inputs: Any) -> None:
    assert "example inputs are a" in refused(small(), inputs).arrived


def test_forward_that_raises() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        raise ValueError("not on a Monday")

    assert "not on a Monday" in refused(net(forward, a=conv(3, 4))).arrived


def test_no_modules() -> None:
    graph = record(net(lambda s, x: x * 2), IMAGE)
    assert not graph.groups
    assert graph.shrink({})(IMAGE).shape == IMAGE.shape


def test_nothing_but_an_output_layer() -> None:
    graph = record(conv(3, 4), IMAGE)
    assert graph.free == []
    assert [group.frozen for group in graph.groups.values()] == ["it is the network's output"]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised() -> None:
    model = net(lambda s, x: s.a(x) + s.q.dequantize(), a=conv(3, 4))
    model.register_buffer("q", torch.quantize_per_tensor(torch.rand(4, 1, 1), 0.1, 0, torch.qint8))
    assert refused(model).arrived == "the buffer q is quantised"


@pytest.mark.parametrize(("give", "named"), [(lambda y: y.shape[1], "type int"), (lambda y: None, "nothing")])
def test_outputs_without_a_tensor(give: Callable[[Tensor], object], named: str) -> None:
    assert named in refused(net(lambda s, x: give(s.a(x)), a=conv(3, 4))).arrived


@dataclass
class Logits:
    scores: Tensor


class Held:
    __slots__ = ("inside",)

    def __init__(self, inside: object) -> None:
        self.inside = inside


@pytest.mark.parametrize(
    "give",
    [
        lambda y: Logits(y),
        lambda y: [Logits(y)],
        lambda y: Held({"deep": [SimpleNamespace(y=y)]}),
        lambda y: {y},
        lambda y: (one for one in [y]),
    ],
)
def test_outputs_are_found_wherever_they_are_held(give: Callable[[Tensor], object]) -> None:
    model = proofs.in_double(net(lambda s, x: give(s.head(s.a(x))), a=cbr(3, 8), head=head(8)))
    graph = record(model, IMAGE)
    assert graph.free == ["a.0"]
    assert verify(model, IMAGE).exact
    proofs.shrinks_exactly(graph, IMAGE, 0)


def test_code_that_looks_at_numbers_is_recorded_on_real_ones() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        for _ in range(int(x.abs().mean().item() < 1e9) + 1):
            x = x + s.b(x)
        return s.head(x)

    graph = record(proofs.in_double(net(forward, a=cbr(3, 8), b=cbr(8, 8), head=head(8))), IMAGE)
    assert not graph.on_meta
    graph.shrink({"a.0": [0, 1, 5]})


def test_data_dependent_shapes() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x).flatten(2).transpose(1, 2)
        return s.b(x[x.sum(-1) > -1e9])

    graph = record(proofs.in_double(net(forward, a=cbr(3, 8), b=nn.Linear(8, 3))), IMAGE)
    for group in graph.groups.values():
        assert group.frozen or group.mixes or group.name in graph.free
    graph.resize(proofs.scaled(graph, 0.5))


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


def test_custom_autograd_function() -> None:
    model = proofs.in_double(
        net(lambda s, x: s.head(s.b(_Twice.apply(s.a(x)))), a=cbr(3, 8), b=cbr(8, 6), head=head(6))
    )
    graph = record(model, IMAGE)
    assert len(graph.free) == 2
    proofs.shrinks_exactly(graph, IMAGE, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype: torch.dtype) -> None:
    graph = record(small().to(dtype), IMAGE)
    shrunk = graph.shrink({"0.0": [1, 2, 7]})
    assert shrunk.get_parameter("0.0.weight").dtype == dtype
    assert shrunk.get_parameter("0.0.weight").shape[0] == 3


def test_several_dtypes_in_one_network() -> None:
    model = net(lambda s, x: s.head(s.b(s.a(x).double()).float()), a=cbr(3, 8), b=cbr(8, 6).double(), head=head(6))
    shrunk = record(model, IMAGE).shrink({"a.0": [0, 3], "b.0": [1]})
    assert shrunk(IMAGE).shape == (2, 5)
    assert shrunk.get_parameter("b.0.weight").dtype == torch.float64


def test_integer_inputs() -> None:
    model = net(lambda s, x: s.head(s.a(s.e(x).permute(0, 3, 1, 2))), e=nn.Embedding(10, 6), a=cbr(6, 8), head=head(8))
    graph = record(proofs.in_double(model), torch.zeros(2, 4, 4, dtype=torch.int64))
    assert "a.0" in graph.free
    proofs.shrinks_exactly(graph, torch.zeros(2, 4, 4, dtype=torch.int64), 0)


def test_meta_network() -> None:
    with torch.device("meta"):
        model = small()
    graph = record(model, IMAGE)
    assert graph.widths == {"0.0": 8, "1.0": 6, "2.2": 5}


def test_training_branch_that_does_not_run_at_this_size() -> None:
    def forward(s: nn.Module, x: Tensor) -> Any:
        y = s.head(s.a(x))
        return (y, s.aux(F.avg_pool2d(s.a(x), 16))) if s.training else y

    error = refused(net(forward, a=cbr(3, 8), head=head(8), aux=head(8)))
    assert "training mode" in error.arrived


def test_evaluation_that_fails_does_not_blame_the_training_mode() -> None:
    assert "training mode" not in refused(small().train(), torch.zeros(1, 4, 8, 8)).arrived


class TestWidths:
    def graph(self) -> Any:
        return record(small(), IMAGE)

    def test_unknown_group(self) -> None:
        with pytest.raises(GraphError, match=r"did you mean 1\.0"):
            self.graph().shrink({"1.O": [0]})

    @pytest.mark.parametrize("keep", [[], [8], [-1], [0, 99]])
    def test_keep(self, keep: list[int]) -> None:
        with pytest.raises(GraphError) as caught:
            self.graph().shrink({"0.0": keep})
        assert caught.value.rule
        assert caught.value.repair

    def test_keep_that_is_no_list_of_positions(self) -> None:
        for wrong in ([0.5], ["a"], None, 3):
            with pytest.raises(GraphError):
                self.graph().shrink({"0.0": wrong})

    @pytest.mark.parametrize("width", [0, -3, 2.5, True, "8", None])
    def test_width(self, width: Any) -> None:
        with pytest.raises(GraphError):
            self.graph().resize({"0.0": width})

    def test_frozen(self) -> None:
        with pytest.raises(GraphError, match="frozen: it is the network's output"):
            self.graph().resize({"2.2": 3})

    def test_kind_of_weights(self) -> None:
        with pytest.raises(GraphError, match="fresh"):
            self.graph().resize({"0.0": 3}, weights="old")


def test_parameters_on_several_devices() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3).to("meta"))
    graph = record(model, torch.zeros(1, 3, 8, 8))
    shrunk = graph.shrink({"0": [0, 1, 2]})
    assert [p.device.type for p in shrunk.parameters()] == ["cpu", "cpu", "meta", "meta"]
    assert shrunk.get_parameter("2.weight").shape == (4, 3, 3, 3)


def test_code_that_insists_on_single_precision_is_verified_in_that() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(s.b(s.a(x.float())))

    found = verify(net(forward, a=cbr(3, 8), b=cbr(8, 6), head=head(6)), IMAGE, trials=1)
    assert (found.exact, found.precision, found.tolerance) == (True, "float32", 1e-4)
    assert verify(small(), IMAGE, trials=1).precision == "float64"
