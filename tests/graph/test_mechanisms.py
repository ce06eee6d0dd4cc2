"""Every mechanism, alone: each network shrinks, widens and resizes exactly, or says why not."""

from __future__ import annotations

import gc
import inspect
import linecache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from morphsearch.costs import cost
from morphsearch.graph import checked, record
from morphsearch.loop.verification import random_keep
from tests.graph import idioms, mixtures, multihead, proofs, tokens, usual
from tests.graph.mechanisms import CASES

# These files register their networks.
FIRST = (
    tokens.class_token,
    usual.weight_norm,
    multihead.attention_pool,
    idioms.a_sum_from_zeros_like,
    mixtures.mixed_kernels,
)
assert {one.__name__ for one in FIRST} <= CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_mechanism(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    graph = record(proofs.in_double(case.build()), case.inputs)
    mixes = proofs.mixing(graph)
    assert proofs.free_share(graph) >= case.removable
    if case.exact:
        assert not mixes
    assert case.reason in proofs.explained(graph)
    assert "in this form" not in proofs.explained(graph), "a built-in rule failed on its own operation"

    shrunk = proofs.shrinks_exactly(graph, case.inputs, 0, skip=mixes)
    proofs.shrinks_exactly(graph, case.inputs, 1, skip=mixes)
    proofs.widens_exactly(graph, case.inputs, skip=mixes)
    for factor in (0.5, 1.5, 0.0):  # 0.0: every group at its floor
        proofs.resizes(graph, case.inputs, factor)
    if mixes:
        graph.shrink(random_keep(graph, np.random.default_rng(2)))
    proofs.trains(shrunk, case.inputs)


@pytest.mark.parametrize(
    "name", ["residual", "shuffle_units", "c2f", "padded_shortcut", "grouped_lockstep", "group_norm_plain"]
)
def test_shrink_widen_shrink(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    graph = record(proofs.in_double(case.build()), case.inputs)
    for step, factor in enumerate((0.5, 2.5)):
        proofs.shrinks_exactly(graph, case.inputs, step)
        network = graph.resize(proofs.scaled(graph, factor), weights="widen" if factor > 1 else "fresh").double().eval()
        graph = record(network, case.inputs, decisions=graph.decisions)
    proofs.shrinks_exactly(graph, case.inputs, 7)


@pytest.mark.parametrize(
    "name",
    ["dropout_that_is_told_the_mode", "draws_in_training_alone", "one_image_at_a_time", "view_written_minus_one"],
)
def test_twice_the_widths_do_not_pass_for_twice_the_batch(name: str) -> None:
    # ``x.view(-1, 54)`` takes twice as many channels without a word, as more images.
    case = CASES[name]
    graph = record(proofs.in_double(case.build()), case.inputs)
    assert graph.free
    proofs.resizes(graph, case.inputs, 2.0)
    proofs.shrinks_exactly(graph, case.inputs, 3)


@pytest.mark.parametrize("name", ["linear_attention", "the_first_channels_are_turned", "heads_in_one_reshape", "c2f"])
@pytest.mark.parametrize("share", [2, 3, 4])
def test_a_whole_share_of_the_channels_does_not_pass_for_fewer_heads_or_all_of_a_slice(name: str, share: int) -> None:
    # ``reshape(b, -1, 12, h * w)`` takes half of the channels of all heads for half of the heads.
    case = CASES[name]
    torch.manual_seed(0)
    graph = record(proofs.in_double(case.build()), case.inputs)
    rng = np.random.default_rng(share)
    for group in map(graph.groups.__getitem__, graph.free):
        count = group.width // share // group.multiple * group.multiple
        if count >= max(1, group.floor) and (name == "linear_attention" or not group.mixes):
            proofs.keeps_exactly(
                graph, case.inputs, {group.name: sorted(rng.permutation(group.width)[:count].tolist())}
            )


# Activations that are not those of the rebuilt network (docs/explanation/costs.md says which those are).
COUNTED_OTHERWISE = {
    "padded_by_cat": "filler that code makes",
    "the_first_channels_are_doubled": "channels taken by their number",
    "the_first_channels_are_written_over": "channels taken by their number",
    "channels_shifted_in_place": "channels taken by their number",
    "mixed_hidden_states": "three widths in one product",
    "evo_norm_widths": "one number for a set, repeated for its channels",
}


WRITTEN = ("written_by_index", "slices_written", "attention_between_channels", "linear_attention", "c2f", "made_state")


@pytest.mark.parametrize("name", CASES)
def test_costs_at_other_widths_are_those_of_the_rebuilt_network(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    graph = record(case.build(), case.inputs)
    widths = proofs.scaled(graph, 1.5)
    rebuilt = record(graph.resize(widths), case.inputs, check=False, decisions=graph.decisions)
    for metric in ("flops", "params", "activations"):
        if metric == "params" or name not in COUNTED_OTHERWISE:
            assert cost(graph, metric, widths).total == cost(rebuilt, metric).total, metric
    if name in WRITTEN:  # code that is written anew frees sooner
        assert cost(graph, "memory", widths).total >= cost(rebuilt, "memory").total * (1 - 1e-12)


def test_copied_methods_are_the_only_difference() -> None:
    network = proofs.in_double(CASES["one_image_at_a_time"].build())
    graph = record(network, CASES["one_image_at_a_time"].inputs)
    shrunk = graph.shrink({"a.0": [0, 5, 6]})
    assert isinstance(shrunk, type(network))
    assert "view(1, 8 * 4)" in inspect.getsource(type(network).forward)
    assert "reshape(1, 12)" in inspect.getsource(type(shrunk).forward)
    assert shrunk(torch.rand(5, 3, 9, 9, dtype=torch.float64)).shape == (5, 4)  # another batch, another size
    again = record(shrunk, CASES["one_image_at_a_time"].inputs).shrink({"a.0": [1]})
    assert "reshape(1, 4)" in inspect.getsource(type(again).forward)


@pytest.mark.parametrize("name", ["sizes_that_are_unpacked", "one_image_at_a_time", "made_state", "conv_gru"])
def test_rewrites_one_after_another_do_not_pile_up(name: str) -> None:
    """A search cuts a network many times: its code is that of one rewrite with other numbers."""
    inputs = CASES[name].inputs
    network = CASES[name].build()
    written = [len(type(module).__mro__) for module in network.modules()]
    sources, texts = [], []
    for _ in range(4):
        graph = record(network, inputs)
        keep = {name: range(max(graph.groups[name].floor, graph.widths[name] - 1)) for name in graph.free}
        network = graph.shrink({name: list(kept) for name, kept in keep.items()})
        assert all(
            len(type(module).__mro__) <= before + 1 for module, before in zip(network.modules(), written, strict=True)
        )
        changed = [module for module in network.modules() if "forward" in vars(type(module))]
        sources.append(sum(len(inspect.getsource(type(module).forward)) for module in changed))
        del graph
        gc.collect()
        texts.append(sum("at other widths" in file for file in linecache.cache))
    assert sources[-1] <= sources[0] + 8, "a few digits more at most"
    assert texts[-1] <= texts[1]


class Ghost(nn.Module):
    """Twice the channels for half the work, of which so many are taken as the module was told (arXiv 1911.11907)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs, half = outputs, outputs // 2
        self.primary, self.cheap = nn.Conv2d(inputs, half, 1), nn.Conv2d(half, half, 3, padding=1, groups=half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.primary(x)
        return torch.cat([x, self.cheap(x).relu()], 1)[:, : self.outputs].relu()


def test_code_that_was_patched_for_other_widths_is_patched_at_once_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = []
    attempt = checked._attempt
    monkeypatch.setattr(checked, "_attempt", lambda *args: (trials.append(args[3]), attempt(*args))[1])

    def tried(blocks: int) -> int:
        layers = [Ghost(8 if number else 3, 8) for number in range(blocks)]
        network = proofs.in_double(nn.Sequential(*layers, nn.Conv2d(8, 4, 1)))
        graph = record(network, torch.zeros(1, 3, 8, 8))
        wide = graph.resize({name: 2 * graph.widths[name] for name in graph.free}, weights="widen")
        assert all("forward" in vars(type(module)) for module in wide if isinstance(module, Ghost))
        graph = record(wide, torch.zeros(1, 3, 8, 8))
        trials.clear()
        proofs.keeps_exactly(graph, torch.zeros(1, 3, 8, 8), {name: [0, 1, 2] for name in graph.free})
        return len(trials)

    assert tried(5) == tried(2), "every trial runs the whole network"


def test_methods_that_cannot_be_copied_keep_their_sizes() -> None:
    class Private(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out, self.__size = nn.Conv2d(3, 8, 3), nn.Linear(32, 4), 32

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            parts = [F.adaptive_avg_pool2d(x[i : i + 1], 2) for i in range(x.shape[0])]
            return self.out(torch.cat(parts).view(-1, self.__size))  # a name that only the class knows

    graph = record(Private(), torch.zeros(2, 3, 8, 8))
    assert graph.free == []
    assert "cannot follow other widths" in str(graph.groups["a"].frozen)


def test_noise_lets_copies_learn_apart() -> None:
    case = CASES["plain"]
    graph = record(proofs.in_double(case.build()), case.inputs)
    doubled = graph.rewrite(
        np.full(graph.num_units, 1) + np.isin(np.arange(graph.num_units), graph.units_of("0.0")), "widen", noise=0.1
    )
    weight = doubled.get_parameter("0.0.weight")
    first, second = weight[::2], weight[1::2]
    assert first.shape == second.shape
    assert not torch.equal(first, second)
    assert (first - second).abs().max() < first.std()


def test_whole_groups_that_leave_no_choice_give_way_to_channels_in_lockstep() -> None:
    # Heads share their channels, so the six groups of `b` could only leave together; one channel of each can.
    case = CASES["linear_attention"]
    graph = record(proofs.in_double(case.build()), case.inputs)
    assert graph.decisions["b.weight"] == "lockstep"
    shrunk = graph.shrink({"qkv": [0, 3]})
    assert shrunk.get_parameter("qkv.weight").shape[0] == 12
    assert shrunk.get_parameter("b.weight").shape[:2] == (12, 2)
    assert record(shrunk, case.inputs, decisions=graph.decisions).widths["qkv"] == 2
