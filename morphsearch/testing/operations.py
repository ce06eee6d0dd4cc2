"""What every operation rule must do; subclass :class:`OperationConformance` in a test module to check yours."""

from __future__ import annotations

from typing import Any

from torch import nn

from morphsearch.graph import record
from morphsearch.loop.verification import verify


class OperationConformance:
    """Cases for a rule, on a network that uses what it is about::

        class TestRank(OperationConformance):
            def rule(self):
                return RankRule()

            def network(self):
                return RankNet()

            def inputs(self):
                return torch.randn(1, 3, 8, 8)

    Attributes:
        mixes: the rule says that removal is not exact (``call.mixes()``).
    """

    mixes = False

    def rule(self) -> Any:
        """The rule under test."""
        raise NotImplementedError("return the rule")

    def network(self) -> nn.Module:
        """A network in which a convolution feeds the operation, and another one reads it."""
        raise NotImplementedError("return a network that uses the operation")

    def inputs(self) -> Any:
        """Example inputs for it."""
        raise NotImplementedError("return a tensor or a tuple")

    def test_it_says_what_it_is_for(self) -> None:
        """Names of operations (``"aten::kthvalue"``), torch functions or module types."""
        handles = tuple(self.rule().handles)
        assert handles, "a rule handles something"
        for handle in handles:
            assert callable(handle) or "::" in handle, f"{handle!r} is no operation, function or type"

    def test_nothing_is_frozen_for_want_of_a_rule(self) -> None:
        """The channels that meet the operation can leave."""
        graph = record(self.network().eval(), self.inputs())
        frozen = {name: group.frozen for name, group in graph.groups.items() if group.frozen}
        assert graph.free, f"nothing can leave: {frozen}"

    def test_removal_is_exact_or_said_to_mix(self) -> None:
        """What ``morphsearch verify`` proves: the rule tells the truth about which channels belong together."""
        found = verify(self.network().eval(), self.inputs(), trials=2)
        assert found.exact, f"the largest relative error is {found.max_error}"
        assert bool(found.mixes) == self.mixes, f"mixing groups: {found.mixes}"
