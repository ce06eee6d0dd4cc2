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


class TestGroupLasso(StrategyConformance):
    def strategy(self) -> Strategy:
        return get("group-lasso")


class TestGroupLassoSparse(StrategyConformance):
    networks = frozenset({"residual", "bare"})

    def strategy(self) -> Strategy:
        return get("group-lasso", l1_fraction=0.5, relative=False, every=2)


class TestLogisticSigmoid(StrategyConformance):
    def strategy(self) -> Strategy:
        return get("logistic-sigmoid")


class TestLogisticSigmoidRelaxed(StrategyConformance):
    networks = frozenset({"residual", "bare"})

    def strategy(self) -> Strategy:
        return get("logistic-sigmoid", straight_through=False, temperature=0.5, final_temperature=0.1)


class TestSlimmable(StrategyConformance):
    def strategy(self) -> Strategy:
        return get("slimmable", plain=0.0)


class TestMagnitude(StrategyConformance):
    def strategy(self) -> Strategy:
        return get("magnitude")


class TestMagnitudeL1(StrategyConformance):
    networks = frozenset({"residual", "bare"})

    def strategy(self) -> Strategy:
        return get("magnitude", norm="l1", coupling="max", relative=False)


class TestTaylor(StrategyConformance):
    def strategy(self) -> Strategy:
        return get("taylor")


class TestTaylorAbs(StrategyConformance):
    networks = frozenset({"residual", "bare"})

    def strategy(self) -> Strategy:
        return get("taylor", power="abs", memory=5)


class TestUniform(StrategyConformance):
    def strategy(self) -> Strategy:
        return get("uniform")


class TestRandom(StrategyConformance):
    def strategy(self) -> Strategy:
        return get("random", sigma=0.7)


class TestTrials(StrategyConformance):
    def strategy(self) -> Strategy:
        return get("trials", trials=4)


def test_networks_for_tests_need_no_pytest() -> None:
    code = (
        "import sys, morphsearch.testing, morphsearch.strategies, morphsearch.costs; sys.exit('pytest' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
