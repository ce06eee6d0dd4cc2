"""What masks are made of: scopes, blocks, N:M."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsity_fakes import Everything, everything, small, zeros
from torch import Tensor, nn

from morphsearch.errors import UsageError
from morphsearch.sparsity import Schedule, Sparsifier


def pruned(model: nn.Module, target: float, **options: object) -> Sparsifier:
    """Pruned at once, before any training."""
    return Sparsifier(model, schedule=Schedule.constant(target), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", ["layer", "tensor"])
@pytest.mark.parametrize("target", [0.1, 0.5, 0.7, 0.9])
def test_every_layer_type_reaches_its_target(scope: str, target: float) -> None:
    sparsifier = pruned(everything(), target, scope=scope, depthwise=True)
    rows = {row.name: row for row in sparsifier.report().rows if row.kept is None}
    kinds = {row.kind for row in rows.values()}
    assert kinds == {
        *("Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d", "MultiheadAttention", "LSTM", "Linear"),
        "NonDynamicallyQuantizableLinear",
    }
    by_layer: dict[str, list[int]] = {}
    for row in rows.values():
        assert row.asked == target
        key = row.layer if scope == "layer" else row.name
        entry = by_layer.setdefault(key, [0, 0])
        entry[0], entry[1] = entry[0] + row.weights, entry[1] + row.nonzeros
    for weights, nonzeros in by_layer.values():
        assert nonzeros == max(1, round(weights * (1 - target)))


def test_the_smallest_leave_and_biases_norms_and_depthwise_stay() -> None:
    before, after = everything(), everything()
    sparsifier = pruned(after, 0.6)
    kept = {one.name: one.kept for one in sparsifier.weights}
    assert kept["depthwise.weight"] == "depthwise"
    assert kept["norm.weight"] == kept["layer_norm.weight"] == "norm"
    assert all(why == "bias" for name, why in kept.items() if "bias" in name and "norm" not in name)
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        gone = new == 0
        if kept[name] is not None:
            assert torch.equal(old, new)
        elif name != "recurrent.weight_ih_l0" and name != "recurrent.weight_hh_l0":  # ranked together
            assert old[gone].abs().max() <= old[~gone].abs().min()
        assert torch.equal(old[~gone], new[~gone])


@pytest.mark.parametrize("target", [0.99, 0.9999, 0.999999])
@pytest.mark.parametrize("scope", ["layer", "tensor", "global"])
def test_at_least_one_weight_of_every_tensor_stays(target: float, scope: str) -> None:
    model = everything()
    with torch.no_grad():
        model.head.weight.mul_(1e-6)  # all of it would go in a global ranking
    sparsifier = pruned(model, target, scope=scope, depthwise=True)
    for row in sparsifier.report().rows:
        if row.kept is None and (scope != "layer" or row.kind != "LSTM"):
            assert row.nonzeros >= 1, row.name


def test_global_scope_ranks_all_weights_together() -> None:
    model = small()
    with torch.no_grad():
        model[3].weight.mul_(2)
        model[6].weight.mul_(1.5)
    sparsifier = pruned(model, 0.7, scope="global")
    report = sparsifier.report()
    assert report.reached == pytest.approx(0.7, abs=1e-3)
    found = {row.layer: row.reached for row in report.rows if row.kept is None}
    assert found["3"] < 0.6 < 0.8 < found["6"]
    weights = torch.cat([model[index].weight.flatten() for index in (0, 3, 6)])
    original = torch.cat([one.flatten() for one in _scaled()])
    assert original[weights == 0].abs().max() <= original[weights != 0].abs().min()


def _scaled() -> list[Tensor]:
    fresh = small()
    return [fresh[0].weight.detach(), fresh[3].weight.detach() * 2, fresh[6].weight.detach() * 1.5]


def test_ties_leave_exactly_as_many_as_asked() -> None:
    model = nn.Linear(10, 10)
    nn.init.ones_(model.weight)
    pruned(model, 0.7)
    assert model.weight.count_nonzero() == 30


def test_the_target_can_be_a_share_of_the_whole_network() -> None:
    report = pruned(small(), 0.7, of="network").report()
    gone = sum(row.weights - row.nonzeros for row in report.rows if row.kept is None)
    assert gone == pytest.approx(0.7 * report.after.parameters, abs=2)
    assert report.asked > 0.7
    with pytest.raises(UsageError, match="can be pruned"):
        pruned(everything(), 0.97, of="network")


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.sampled_from([2, 4, 8]),
    st.floats(0, 1),
    st.sampled_from(["conv", "grouped", "transposed", "linear", "line"]),
)
def test_no_group_of_m_has_more_than_n(n: int, m: int, progress: float, kind: str) -> None:
    n = min(n, m - 1)
    layers = {
        "conv": nn.Conv2d(16, 6, 3),
        "grouped": nn.Conv2d(32, 6, 3, groups=2),
        "transposed": nn.ConvTranspose2d(16, 6, 3),
        "linear": nn.Linear(24, 7),
        "line": nn.Conv1d(8, 4, 5),
    }
    layer = layers[kind]
    steps = 100
    sparsifier = Sparsifier(layer, nm=(n, m), steps=steps)
    for _ in range(int(progress * steps)):
        sparsifier.step()
    weight = layer.weight.detach()
    channels = 0 if kind == "transposed" else 1
    groups = weight.movedim(channels, -1).unflatten(-1, (-1, m))
    counts = (groups != 0).sum(-1)
    allowed = m - int(sparsifier.asked * m + 1e-9)
    assert counts.max() <= max(n, allowed)
    if progress >= 0.7:
        assert (counts == n).all()
        assert zeros(weight) == pytest.approx(1 - n / m)


def test_n_of_m_keeps_the_largest() -> None:
    layer = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -5, 3, 2, 0.1, 0.2, -0.4, 0.3]]))
    Sparsifier(layer, nm="2:4", schedule=Schedule.constant(0.5))
    assert layer.weight.tolist() == [[0, -5, 3, 0, 0, 0, pytest.approx(-0.4), pytest.approx(0.3)]]


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(["mean", "max"]), st.sampled_from([0.3, 0.6, 0.9]))
def test_blocks_leave_whole(rows: int, columns: int, pool: str, target: float) -> None:
    layer = nn.Conv2d(10, 12, 3, bias=False)
    weight = layer.weight.detach()
    before = weight.clone()
    pruned(layer, target, block=(rows, columns), pool=pool)
    gone = weight == 0
    assert gone.any()
    assert not gone.all()
    scores: dict[bool, list[float]] = {True: [], False: []}
    for top in range(0, 12, rows):
        for left in range(0, 10, columns):
            for y, x in [(y, x) for y in range(3) for x in range(3)]:
                block = gone[top : top + rows, left : left + columns, y, x]
                assert block.all() or not block.any()
                saliency = before[top : top + rows, left : left + columns, y, x].abs()
                scores[bool(block.all())].append(float(saliency.mean() if pool == "mean" else saliency.max()))
    assert max(scores[True]) <= min(scores[False]) + 1e-6
    blocks = len(scores[True]) + len(scores[False])
    assert len(scores[False]) == max(1, round(blocks * (1 - target)))


def test_layers_are_chosen_by_patterns() -> None:
    def chosen(**options: object) -> set[str]:
        found = pruned(everything(), 0.5, **options)
        return {one.name for one in found.weights if one.kept is None}

    assert chosen(include=["conv", "head"]) == {"conv.weight", "head.weight"}
    assert chosen(include="recurrent") == {"recurrent.weight_ih_l0", "recurrent.weight_hh_l0"}
    assert chosen(include=["*.weight_hh*"]) == {"recurrent.weight_hh_l0"}
    assert "conv.weight" not in chosen(exclude=["co*"])
    assert "attention.out_proj.weight" not in chosen(exclude=["attention"])
    assert chosen(include=["depthwise"], depthwise=True) == {"depthwise.weight"}


def test_tied_weights_are_pruned_once() -> None:
    model = Everything()
    twin = nn.Linear(12, 5)
    twin.weight = model.head.weight
    pair = nn.ModuleDict({"model": model, "twin": twin})
    names = [one.name for one in pruned(pair, 0.5).weights]
    assert "model.head.weight" in names
    assert "twin.weight" not in names
    assert zeros(twin.weight) == 0.5
