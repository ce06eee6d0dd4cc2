"""The built-in strategies pass what plugin authors' strategies have to."""

from __future__ import annotations

import subprocess
import sys

from morphsearch.strategies import Strategy, get
from morphsearch.testing import StrategyConformance


class TestGammaL1(StrategyConformance):
    refuses = frozenset({"bare"})

    def strategy(self) -> Strategy:
        return get("gamma-l1")


class TestGammaL1Coupled(StrategyConformance):
    refuses = frozenset({"bare"})

    def strategy(self) -> Strategy:
        return get("gamma-l1", coupling="l2", relative=True)


class TestUniform(StrategyConformance):
    def strategy(self) -> Strategy:
        return get("uniform")


class TestRandom(StrategyConformance):
    def strategy(self) -> Strategy:
        return get("random", sigma=0.7)


def test_networks_for_tests_need_no_pytest() -> None:
    code = (
        "import sys, morphsearch.testing, morphsearch.strategies, morphsearch.costs; sys.exit('pytest' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
