"""What every strategy must do; subclass :class:`StrategyConformance` in a test module to check yours."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from morphsearch import files
from morphsearch.costs.pricing import bind, vector
from morphsearch.errors import BudgetError, UsageError
from morphsearch.strategies.base import Strategy
from morphsearch.testing.networks import CLASSES, NETWORKS, example_inputs

if TYPE_CHECKING:
    from morphsearch.graph import ConvGraph


class StrategyConformance:
    """Cases for a strategy::

        class TestMine(StrategyConformance):
            def strategy(self):
                return Mine()

    Attributes:
        networks: names of the tiny networks to run on; all of them, unless options are all that differ.
        refuses: names of the tiny networks that :meth:`Strategy.attach` must refuse with a UsageError.
        strength: lambda for the training steps of these cases.
        lr: learning rate of the same.
    """

    networks: frozenset[str] = frozenset(NETWORKS)
    refuses: frozenset[str] = frozenset()
    strength = 0.05
    lr = 0.05

    def strategy(self) -> Strategy:
        """A new strategy, the one under test."""
        raise NotImplementedError("return a new strategy")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each case on every tiny network that the strategy takes."""
        if "network" in metafunc.fixturenames:
            metafunc.parametrize("network", sorted(self.networks - self.refuses))

    @pytest.fixture
    def model(self, network: str) -> nn.Module:
        """That network."""
        return NETWORKS[network]()

    @pytest.fixture
    def graph(self, model: nn.Module) -> ConvGraph:
        """Its graph."""
        from morphsearch.graph import record

        return record(model, example_inputs())

    @pytest.fixture
    def prices(self, graph: ConvGraph) -> Tensor:
        """`u`: FLOPs of every unit, normalised to mean 1 over the free ones."""
        per_group = bind(graph, "flops").marginal(vector(graph, graph.widths)).numpy()
        prices = per_group[graph.unit_group]
        free = np.array([not group.frozen for group in graph.groups.values()])[graph.unit_group]
        return torch.from_numpy(prices / prices[free].mean())

    @pytest.fixture
    def attached(self, model: nn.Module, graph: ConvGraph) -> Strategy:
        """The strategy, attached to `model`."""
        strategy = self.strategy()
        strategy.attach(model, graph)
        return strategy

    def steps(self, strategy: Strategy, model: nn.Module, prices: Tensor, count: int = 5) -> list[float]:
        """Train for `count` steps the way the loop does; returns the penalties."""
        torch.manual_seed(0)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=self.lr, momentum=0.9)
        penalties = []
        for _ in range(count):
            x, y = torch.randn(8, 3, 8, 8), torch.randint(CLASSES, (8,))
            penalty = strategy.penalty(prices, self.strength)
            assert penalty.shape == (), f"penalty has shape {tuple(penalty.shape)}"
            penalties.append(float(penalty.detach()))
            loss = nn.functional.cross_entropy(model(x), y) + penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            strategy.after_step(prices, self.strength, self.lr)
        return penalties

    def check_judgement(self, strategy: Strategy, graph: ConvGraph) -> None:
        """Scores and alive flags are well-formed."""
        scores, scored = strategy.scores(), strategy.scored()
        alive = strategy.alive(strategy.default_threshold)
        for name, tensor in (("scores", scores), ("scored", scored), ("alive", alive)):
            assert tensor.shape == (graph.num_units,), f"{name} has shape {tuple(tensor.shape)}, not one a unit"
            assert not tensor.requires_grad, f"{name} carries a gradient"
        assert scored.dtype == alive.dtype == torch.bool
        assert torch.isfinite(scores).all(), "scores must be finite"
        assert (scores >= 0).all(), "scores must not be negative"
        assert alive[~scored].all(), "units that cannot be judged must stay alive"

    def test_has_a_name(self) -> None:
        """The one it is registered by."""
        assert self.strategy().name

    def test_refuses_with_advice(self) -> None:
        """What it cannot judge is a UsageError that says which strategies fit."""
        from morphsearch.graph import record

        for name in self.refuses:
            model = NETWORKS[name]()
            with pytest.raises(UsageError) as caught:
                self.strategy().attach(model, record(model, example_inputs()))
            assert caught.value.repair, "say what to do instead"

    def test_attaching_leaves_the_model_as_it_was(self, model: nn.Module, graph: ConvGraph) -> None:
        """Outputs in evaluation mode do not change."""
        before = model(example_inputs())
        self.strategy().attach(model, graph)
        torch.testing.assert_close(model(example_inputs()), before, rtol=0, atol=0)

    def test_judges_every_unit(self, attached: Strategy, graph: ConvGraph) -> None:
        """Before any training too."""
        self.check_judgement(attached, graph)

    def test_regularizes_parameters_that_exist(self, attached: Strategy, model: nn.Module) -> None:
        """Names of the model's parameters, or of those that the strategy added."""
        unknown = attached.regularized() - {name for name, _ in model.named_parameters()}
        assert not unknown, f"not parameters of the model: {sorted(unknown)}"

    def test_steps_keep_everything_finite(
        self, attached: Strategy, model: nn.Module, graph: ConvGraph, prices: Tensor
    ) -> None:
        """A few steps of training under the penalty."""
        for penalty in self.steps(attached, model, prices):
            assert np.isfinite(penalty), "the penalty must be finite"
            assert penalty >= 0, "the penalty must not be negative"
        for name, parameter in model.named_parameters():
            assert torch.isfinite(parameter).all(), f"{name} is not finite"
        self.check_judgement(attached, graph)

    def test_no_strength_changes_nothing(self, attached: Strategy, model: nn.Module, prices: Tensor) -> None:
        """Strength 0: no penalty, and the step after the step does nothing."""
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        assert float(attached.penalty(prices, 0.0).detach()) == 0.0
        attached.after_step(prices, 0.0, self.lr)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), before[name], rtol=1e-6, atol=1e-7)

    def test_a_higher_threshold_keeps_no_more(self, attached: Strategy) -> None:
        """Alive units shrink as the threshold grows."""
        alive = [attached.alive(threshold) for threshold in (0.0, 1e-3, 1e-2, 0.1, 1.0, 1e9)]
        for lower, higher in pairwise(alive):
            assert not (higher & ~lower).any(), "a unit came back to life at a higher threshold"

    def test_state_survives_files(
        self, attached: Strategy, model: nn.Module, graph: ConvGraph, prices: Tensor, tmp_path: Path
    ) -> None:
        """Tensors through safetensors, the rest through JSON; a resumed strategy judges alike."""
        self.steps(attached, model, prices, count=2)
        tensors, state = attached.state_dict()
        if tensors:
            files.write_tensors(tmp_path / "state.safetensors", tensors)
            tensors = files.read_tensors(tmp_path / "state.safetensors")
        again = self.strategy()
        again.attach(model, graph)
        again.load_state_dict(tensors, json.loads(json.dumps(state)))
        torch.testing.assert_close(again.scores(), attached.scores(), rtol=0, atol=0)
        assert torch.equal(again.alive(again.default_threshold), attached.alive(attached.default_threshold))

    def test_steps_keep_names_and_types(self, attached: Strategy, model: nn.Module, prices: Tensor) -> None:
        """The user's optimizer, checkpoints and wrappers see the network that they know."""
        before = [(name, type(value), tuple(value.shape)) for name, value in model.named_parameters()]
        modules = [(name, type(module)) for name, module in model.named_modules()]
        self.steps(attached, model, prices, count=2)
        assert [(name, type(value), tuple(value.shape)) for name, value in model.named_parameters()] == before
        assert [(name, type(module)) for name, module in model.named_modules()] == modules

    def test_plain_is_without_hooks(self, attached: Strategy, model: nn.Module, prices: Tensor) -> None:
        """In it the network can be copied and rebuilt; afterwards it computes as before."""
        self.steps(attached, model, prices, count=2)
        before = model.eval()(example_inputs(2))
        with attached.plain():
            assert not hooks_of(model), f"hooks are left on {hooks_of(model)}"
        torch.testing.assert_close(model(example_inputs(2)), before, rtol=0, atol=0)

    def test_detach_leaves_a_plain_network(self, attached: Strategy, model: nn.Module, prices: Tensor) -> None:
        """Without hooks, and computing in evaluation mode what it did; a second time changes nothing."""
        self.steps(attached, model, prices, count=2)
        before = model.eval()(example_inputs(2))
        for _ in range(2):
            attached.detach()
            assert not hooks_of(model), f"hooks are left on {hooks_of(model)}"
            torch.testing.assert_close(model(example_inputs(2)), before, rtol=0, atol=0)

    def test_units_can_leave(self, attached: Strategy, model: nn.Module, graph: ConvGraph, prices: Tensor) -> None:
        """Amid a morph, one of each group that can spare it; scores of units in untouched groups stay."""
        from morphsearch.graph import record

        if not (attached.live and attached.needs_training):
            return
        self.steps(attached, model, prices, count=2)
        stays = np.ones(graph.num_units, np.int64)
        for name in graph.free[:1]:
            group = graph.groups[name]
            if group.width - group.multiple >= group.floor:
                stays[graph.units_of(name)[: group.multiple]] = 0
        with attached.plain():
            smaller = graph.rewrite(stays)
        kept = torch.from_numpy(np.nonzero(stays)[0])
        before = attached.scores()[kept]
        now = record(smaller, example_inputs(), decisions=graph.decisions)
        attached.leave(smaller, now, kept)
        self.check_judgement(attached, now)
        elsewhere = torch.from_numpy(np.asarray(graph.unit_group)[kept] != list(graph.groups).index(graph.free[0]))
        judged = elsewhere & attached.scored()
        assert attached.scores().shape == before.shape
        assert (attached.scores()[judged] > 0).equal(before[judged] > 0), "units came to life or died as others left"
        self.steps(attached, smaller, prices[kept], count=1)

    def test_training_that_is_not_finite_shows(
        self, attached: Strategy, model: nn.Module, graph: ConvGraph, prices: Tensor
    ) -> None:
        """Scores of a network whose weights are not finite must not pass for scores: the loop would trust them."""
        if not attached.needs_training:
            return
        self.steps(attached, model, prices, count=1)
        loss = model(example_inputs(4)).sum() * float("nan")
        attached.penalty(prices, self.strength)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(parameter.grad if parameter.grad is not None else float("nan"))
        attached.after_step(prices, self.strength, self.lr)
        assert not torch.isfinite(attached.scores()).all()

    def test_it_follows_a_model_that_moves(self, attached: Strategy, model: nn.Module, prices: Tensor) -> None:
        """A model may go to another device once it is attached. The device of shapes alone finds what mixes devices."""
        # The same objects elsewhere, as with a GPU; to this device, PyTorch would make new ones.
        for parameter in model.parameters():
            moved = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
            torch.utils.swap_tensors(parameter, moved)
        for buffer in model.buffers():
            torch.utils.swap_tensors(buffer, buffer.to("meta"))
        try:
            attached.alive(attached.default_threshold)
            attached.penalty(prices, self.strength)
            attached.after_step(prices, self.strength, self.lr)
        except NotImplementedError:
            pytest.skip("it reads numbers, which the device of shapes alone does not have")
        except RuntimeError as error:
            if "device" in str(error):
                raise
            pytest.skip(f"it does not run on the device of shapes alone: {error}")

    def test_proposals_are_legal_and_fit(self, attached: Strategy, graph: ConvGraph) -> None:
        """Where the strategy proposes widths: legal ones, within the budget, the same for the same random state."""
        flops = bind(graph, "flops")
        seed = float(flops.total(vector(graph, graph.widths)))
        for share in (0.4, 0.7, 1.5):

            def fits(widths: dict[str, int], limit: float = share * seed) -> bool:
                return float(flops.total(vector(graph, widths))) <= limit

            try:
                widths = attached.propose(graph, fits, np.random.default_rng(3))
            except BudgetError:
                continue
            if widths is None:
                assert attached.needs_training, "needs_training = False and nothing proposed"
                return
            assert widths == graph.check_widths(widths)
            assert list(widths) == list(graph.groups), "one width for every group, in the graph's order"
            assert fits(widths), f"{widths} are over the budget"
            assert attached.propose(graph, fits, np.random.default_rng(3)) == widths, "not reproducible from its rng"


def hooks_of(model: nn.Module) -> list[str]:
    """Names of modules and parameters that have hooks, and of modules whose parameters are hidden."""
    found = []
    for name, module in model.named_modules():
        if module._forward_pre_hooks or module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
            found.append(name or "the network")
        found += [f"{name}.{held}" for held in module._parameters if held in module.__dict__]
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            found.append(name)
    return found
