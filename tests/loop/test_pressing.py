"""Whom pressure is on, and when it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loop_fakes import EXACT, example, network

import morphsearch as ms
from morphsearch.loop.controller import LONGEST_WAIT, Controller
from morphsearch.loop.pressing import demand, focus, spared_of
from morphsearch.loop.recovery import ready
from morphsearch.loop.run import resume, start
from morphsearch.loop.rundir import RunDirectory
from morphsearch.loop.selection import Facts
from morphsearch.training import Trainer


def facts_of(search: ms.Search, score: np.ndarray) -> Facts:
    units = search.graph.num_units
    return Facts(score, np.ones(units), np.ones(units, bool), score > 0)


def test_the_first_takes_most_and_those_that_stay_nothing() -> None:
    shares = focus(8, np.array([6, 1, 4, 0, 2, 3]), 2)
    assert shares[6] == 1.0
    assert shares[1] == 0.5
    assert shares[4] == 0.0
    assert not shares[[0, 2, 3, 5, 7]].any()
    many = focus(100, np.arange(100), 40)
    assert (np.diff(many) <= 0).all()
    assert many[39] == pytest.approx(0.5)
    assert many[0] == pytest.approx(1.5, abs=0.05)
    assert not focus(5, np.arange(5), 0).any()


def test_the_need_is_that_of_the_last_under_its_own_share() -> None:
    search = ms.Search(network("plain"), example(), "flops=60%")
    score = np.linspace(0.5, 1.5, search.graph.num_units)
    facts, everyone = facts_of(search, score), np.ones(search.graph.num_units, bool)
    fits = lambda widths: search.budgets.fits(widths, 1.0)  # noqa: E731
    need, prices = demand(search.graph, facts, everyone, fits, {}, 0.1, 1)
    pressed = np.nonzero(prices >= 0.5)[0]
    assert need == pytest.approx((score[pressed].max() - 0.1) / 0.5)
    left = everyone.copy()
    left[pressed] = False
    assert search.budgets.load(search._alive_widths(Facts(score, facts.price, everyone, left))) <= 1.0


def test_the_best_units_of_a_group_that_must_stay_are_not_pressed_where_others_are_enough() -> None:
    search = ms.Search(network("plain"), example(), "flops=60%")
    graph, units = search.graph, search.graph.num_units
    spared = spared_of(graph, 1.0)
    assert any(spared.values())
    cheap = next(name for name, count in spared.items() if count)
    score = np.ones(units)
    score[graph.units_of(cheap)] = np.linspace(0.1, 0.2, graph.groups[cheap].width)  # this group alone would go
    fits = lambda widths: search.budgets.fits(widths, 1.0)  # noqa: E731
    _, prices = demand(graph, facts_of(search, score), np.ones(units, bool), fits, spared, 0.0, 1)
    assert (prices[graph.units_of(cheap)] == 0).sum() >= spared[cheap]
    assert (prices > 0).any()


def test_silent_units_count_as_gone() -> None:
    """So that a network that was cut and one whose silent units are masked are pressed alike."""
    search = ms.Search(network("plain"), example(), "flops=50%")
    graph, units = search.graph, search.graph.num_units
    rng = np.random.default_rng(0)
    score, silent = rng.uniform(0.5, 1.5, units), np.zeros(units, bool)
    name = graph.free[0]
    silent[graph.units_of(name)[:2]] = True
    cut = graph.shrink(keep={name: list(range(2, graph.groups[name].width))})
    small = ms.record(cut, example())
    masked = facts_of(search, np.where(silent, -1.0, score))
    one = demand(graph, masked, ~silent, lambda w: search.budgets.fits(w, 0.9), {}, 0.0, 1)
    budgets = search.budgets.rebound(small)
    facts = Facts(score[~silent], np.ones(small.num_units), np.ones(small.num_units, bool), score[~silent] > 0)
    two = demand(small, facts, np.ones(small.num_units, bool), lambda w: budgets.fits(w, 0.9), {}, 0.0, 1)
    assert one[0] == pytest.approx(two[0])
    np.testing.assert_allclose(one[1][~silent], two[1])
    assert not one[1][silent].any()


def test_ready() -> None:
    assert not ready(0.30, 0.1)
    assert ready(0.35, 0.1)
    assert ready(0.02, 0.001)  # little, but not by chance
    assert not ready(0.002, 0.001)
    assert not ready(0.6, 0.5)


def test_waiting_has_an_end() -> None:
    controller = Controller(200, warmup=0.2)
    begin, end = controller.begin, controller.end
    assert not controller.due(begin - 1)
    looks = 0
    while controller.due(controller.begin):
        controller.wait(False)
        looks += 1
        assert looks < 100
    assert controller.begin - begin == controller.delay == controller.end - end
    assert LONGEST_WAIT * 200 <= controller.delay < LONGEST_WAIT * 200 + controller.every
    assert Controller(**controller.state()) == controller


def test_who_has_learnt_does_not_wait_and_nobody_waits_twice() -> None:
    controller = Controller(200, warmup=0.2)
    controller.wait(True)
    assert controller.delay == 0
    assert not controller.due(150)
    assert not Controller(200, warmup=0.2, fixed=0.1).due(100)
    assert not Controller(None).due(10_000)


CONFIG = ms.SearchConfig("digits_net", iterations=1, epochs=4, recipe={**EXACT, "batch_size": 128, "lr": 0.1})


def no_use(monkeypatch: pytest.MonkeyPatch, above: float) -> None:
    """Accuracies at chance, in training and after, where the learning rate is above that."""
    evaluate, so_far = Trainer.evaluate, Trainer.so_far

    def judged(trainer: Trainer, split: Any) -> Any:
        found = evaluate(trainer, split)
        accuracy = 0.1 if trainer.lr > above else 0.8
        return type(found)(loss=found.loss, accuracy=accuracy, count=found.count)

    def figures(trainer: Trainer) -> Any:
        found = so_far.fget(trainer)
        return type(found)(found.loss, 0.1 if trainer.lr > above else 0.8, found.seconds, found.images)

    monkeypatch.setattr(Trainer, "evaluate", judged)
    monkeypatch.setattr(Trainer, "so_far", property(figures))


def test_pressure_begins_late_where_nothing_is_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first: dict[float, int] = {}
    for above in (0.05, 1.0):
        with monkeypatch.context() as patched:
            no_use(patched, above)
            start(CONFIG, tmp_path / f"run{above}")
            found = RunDirectory(tmp_path / f"run{above}").events()
        pressed = [e["step"] for e in found if e["event"] == "epoch" and e["strength"] > 0]
        first[above] = min(pressed)
    assert first[0.05] > first[1.0]  # and it begins all the same


def test_a_run_killed_while_it_waits_ends_as_it_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_use(monkeypatch, above=0.05)
    whole = start(CONFIG, tmp_path / "whole")

    def stops(kind: str, payload: dict[str, Any]) -> None:
        if kind == "epoch" and payload["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(ms.errors.StoppedError):
        start(CONFIG, tmp_path / "run", listener=stops)
    assert resume(tmp_path / "run").architectures == whole.architectures
