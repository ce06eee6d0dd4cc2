"""A search whose training goes wrong says so, goes back, and goes on with less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_fakes import EXACT

import morphsearch as ms
from morphsearch.errors import DivergedError, StoppedError
from morphsearch.loop import live
from morphsearch.loop.recovery import Collapsed, Recovery
from morphsearch.loop.run import resume, start
from morphsearch.loop.rundir import RunDirectory
from morphsearch.loop.session import Search
from morphsearch.training import Trainer

CONFIG = ms.SearchConfig("digits_net", iterations=1, epochs=3, recipe={**EXACT, "batch_size": 128, "lr": 0.1})


class Accident:
    """Makes a weight infinite after the optimizer's step of that number, unless the learning rate was lowered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, *, above: float = 0.05) -> None:
        self.times = 0
        step = Search.step

        def spoiled(search: Search, lr: float | None = None) -> None:
            step(search, lr)
            if search.total_steps == at and (lr or 0) > above:
                self.times += 1
                with torch.no_grad():
                    next(iter(search.model.parameters())).fill_(float("inf"))

        monkeypatch.setattr(Search, "step", spoiled)


def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 2)
    monkeypatch.setattr(live, "LEAST_SHARE", 0.02)
    monkeypatch.setattr(live, "LEAST_STEPS", 0)


@pytest.mark.parametrize("at", [3, 17, 27])
def test_a_loss_that_is_not_finite_goes_back_to_the_checkpoint_with_a_lower_rate(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accident = Accident(monkeypatch, at)
    heard: list[tuple[str, dict[str, Any]]] = []
    result = start(CONFIG, tmp_path / "run", listener=lambda kind, payload: heard.append((kind, payload)))
    assert accident.times == 1
    (line,) = (e for e in RunDirectory(tmp_path / "run").events() if e["event"] == "recovered")
    assert line["lr"] == pytest.approx(0.1 / 3)
    assert line["step"] < at
    assert "not finite" in line["reason"]
    (warning,) = (payload["text"] for kind, payload in heard if kind == "warning")
    assert "lr=0.033" in warning
    assert warning in result.best.notes
    assert result.best.costs["flops"]["total"] > 0
    steps = [e["step"] for e in RunDirectory(tmp_path / "run").events() if e["event"] == "epoch"]
    assert steps == sorted(set(steps))


def test_units_that_left_since_are_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tight(monkeypatch)
    Accident(monkeypatch, 29, above=0.02)  # twice: to the checkpoint, then to the start
    config = ms.SearchConfig("digits_net", iterations=1, epochs=3, recipe={**EXACT, "batch_size": 128, "lr": 0.1})
    result = start(config, tmp_path / "run")
    tries = [e["tries"] for e in RunDirectory(tmp_path / "run").events() if e["event"] == "recovered"]
    assert tries == [1, 2]
    assert result.best.metrics["val_accuracy"] is not None
    for name, value in result.best.build().state_dict().items():
        assert value.shape == result.best.weights()[name].shape


def test_tries_are_limited_and_the_last_good_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accident = Accident(monkeypatch, 17, above=0.0)
    with pytest.raises(DivergedError, match="3 tries at lower learning rates") as caught:
        start(CONFIG, tmp_path / "run")
    assert accident.times == 4
    assert "learning rate" in caught.value.repair
    with pytest.raises(DivergedError):
        resume(tmp_path / "run")


def test_a_run_killed_after_it_recovered_ends_as_it_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Accident(monkeypatch, 17)
    whole = start(CONFIG, tmp_path / "whole")

    def stops(kind: str, payload: dict[str, Any]) -> None:
        if kind == "warning":
            raise KeyboardInterrupt

    with pytest.raises(StoppedError):
        start(CONFIG, tmp_path / "run", listener=stops)
    again = resume(tmp_path / "run")
    assert again.architectures == whole.architectures
    ours, theirs = (
        [
            {k: v for k, v in e.items() if k != "seconds"}
            for e in RunDirectory(tmp_path / name).events()
            if e["event"] not in ("interrupted", "resumed")
        ]
        for name in ("run", "whole")
    )
    assert ours == theirs


def test_a_collapse_begins_the_morph_anew_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Trainer.evaluate
    epochs: list[int] = []

    def wrecked(trainer: Trainer, split: Any) -> Any:
        judged = evaluate(trainer, split)
        epochs.append(trainer.epoch)
        accuracy = (0.9, 0.95, 0.12)[trainer.epoch - 1]
        return type(judged)(loss=judged.loss, accuracy=accuracy, count=judged.count)

    monkeypatch.setattr(Trainer, "evaluate", wrecked)
    result = start(CONFIG, tmp_path / "run")
    assert epochs == [1, 2, 3, 1, 2, 3]
    events = RunDirectory(tmp_path / "run").events()
    (line,) = (e for e in events if e["event"] == "recovered")
    assert "fell from 95.0% to 12.0%" in line["reason"]
    assert line["step"] == 0
    assert any("fell from 95.0% to 12.0%, though" in e["text"] for e in events if e["event"] == "warning")
    assert any("fell from" in note and "lr=0.033" in note for note in result.best.notes)
    json.dumps(result.summary)


def test_what_counts_as_a_collapse() -> None:
    recovery = Recovery()
    assert recovery.watch(0.11, 0.1, standing=False) == ""
    assert recovery.watch(0.25, 0.1, standing=False) == ""
    assert recovery.watch(0.05, 0.1, standing=False) == ""  # it had learnt too little to lose it
    assert recovery.watch(0.8, 0.1, standing=False) == ""
    assert recovery.watch(0.4, 0.1, standing=False) == ""  # a dip
    with pytest.raises(Collapsed):
        recovery.watch(0.2, 0.1, standing=False)
    again = recovery.again(Collapsed("a", "b", "c"), peak=2.0)
    assert (again.ceiling, again.restarted, again.tries) == (3.0, True, 1)
    assert again.ceiling * again.lr_scale == pytest.approx(0.5 * 2.0)  # half of the pressure
    assert Recovery.of(again.state()) == again


def test_nothing_dying_is_said_while_there_is_time() -> None:
    heard: list[str] = []

    def listen(kind: str, payload: dict[str, Any]) -> None:
        if kind == "warning":
            heard.append(payload["text"])

    from loop_fakes import data, network

    slow = {**EXACT, "lr": 1e-9}
    result = ms.search(
        network(), data(), budget="flops=50%", iterations=1, epochs=4, recipe=slow, strength=1e-6, listener=listen
    )
    (text,) = heard
    assert "No unit has died" in text
    assert "learning rate" in text
    assert result.best.costs["flops"]["total"] > 0


def test_a_network_that_learnt_nothing_is_named_at_the_end() -> None:
    recovery = Recovery()
    assert recovery.watch(0.11, 0.1, standing=False) == ""
    assert "near chance" in recovery.watch(0.12, 0.1, standing=False, over=True)
    assert "ended at 11.0%" in Recovery(best=0.25).watch(0.11, 0.1, standing=False, over=True)
    assert Recovery(best=0.3).watch(0.25, 0.1, standing=False, over=True) == ""


def test_a_search_whose_network_learns_nothing_says_so(tmp_path: Path) -> None:
    config = ms.SearchConfig("digits_net", iterations=1, epochs=1, recipe={**EXACT, "batch_size": 128, "lr": 1e-5})
    heard: list[str] = []
    start(config, tmp_path / "run", listener=lambda kind, payload: heard.append(payload.get("text", "")))
    assert any("near chance" in text for text in heard)
