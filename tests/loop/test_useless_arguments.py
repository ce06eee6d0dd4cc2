"""What an argument cannot change is refused or told: nothing that a user asks for is passed over in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loop_fakes import EXACT, data, example, images, network
from torch.utils.data import DataLoader, TensorDataset

import morphsearch as ms
from morphsearch.errors import UsageError
from morphsearch.loop.retraining import retrain_run
from morphsearch.loop.run import plan, start
from morphsearch.training import Recipe


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("uniform", {"strength": 1.0}),
        ("random", {"threshold": 0.1}),
        ("uniform", {"shrink_to": 0.5}),
        ("trials", {"shrink_to": 0.5}),
        ("trials", {"warmup": 0.5}),
        ("trials", {"expand": False}),
        ("slimmable", {"threshold": 0.1}),
        ("slimmable", {"strength": 1.0}),
        ("taylor", {"strength": 1.0}),
        ("uniform", {"pricing": "unit"}),
        ("slimmable", {"pricing": "unit"}),
    ],
)
def test_what_a_strategy_has_no_use_for_is_refused(strategy: str, options: dict[str, Any]) -> None:
    (name, value) = next(iter(options.items()))
    with pytest.raises(UsageError) as caught:
        ms.Search(network(), example(), "flops=50%", strategy=strategy, **options)
    assert f"{name}={value!r}" in caught.value.arrived
    assert strategy in caught.value.rule
    if name not in ("warmup", "pricing"):
        with pytest.raises(UsageError, match=name):
            plan(ms.SearchConfig("digits_net", strategy=strategy, recipe=EXACT, **options))


def test_a_length_of_the_schedule_is_told_beside_that_of_the_training() -> None:
    def notes(**options: Any) -> tuple[int | None, str]:
        shown = plan(ms.SearchConfig("digits_net", recipe={**EXACT, "epochs": 1}, **options))
        return shown.steps, " ".join(shown.notes)

    trained, _ = notes(strategy="gamma-l1")
    shorter, told = notes(strategy="gamma-l1", steps=20)
    assert shorter == trained  # the training is as long as before
    assert f"takes 20 of the {trained} steps" in told
    assert f"a morph trains for {trained}" in notes(strategy="gamma-l1", steps=500)[1]
    assert "steps=20 has no effect" in notes(strategy="trials", steps=20)[1]
    search = ms.Search(network(), example(), "flops=50%", strategy="uniform", steps=20)
    assert any("steps=20 has no effect" in note for note in search.notes)


def test_a_schedule_longer_than_the_training_is_told_in_the_architecture() -> None:
    found = ms.search(
        network(), data(), budget="flops=50%", strategy="gamma-l1", iterations=1, steps=500, epochs=1, recipe=EXACT
    )
    assert any("steps=500" in note for note in found.best.notes)


@pytest.mark.parametrize(
    ("strategy", "options"), [("uniform", {}), ("random", {}), ("trials", {"point": [1.0]}), ("trials", {})]
)
def test_a_limit_of_the_strategy_holds_when_the_budget_is_filled(strategy: str, options: dict[str, Any]) -> None:
    """Otherwise the fill-up would undo it: uniform widths up to 0.3 came out as if nothing had been said."""
    limit = 0.3 if strategy != "trials" else 1.0
    search = ms.Search(
        network(), example(), "flops=90%", strategy=strategy, strategy_options={"limit": limit, **options}
    )
    if strategy == "trials":
        search.run_phase(lambda: 1.0, train=lambda widths, share: float(sum(widths.values())))
    before, base = dict(search.graph.widths), 1.0
    if strategy == "random":  # each group has a factor of its own beside it
        base = 3.0
    found = search.morph()
    assert all(
        width <= max(round(limit * base * before[name]), 1)
        for name, width in found.widths.items()
        if search.graph.groups[name].frozen is None
    )
    if strategy != "trials":
        assert any("stopped at its limit" in note for note in found.notes)


def test_notes_are_those_of_their_morph() -> None:
    search = ms.Search(network(), example(), "flops=80%,50%", strategy="trials")
    found = []
    for _ in range(2):
        search.run_phase(lambda: 1.0, train=lambda widths, share: float(sum(widths.values())))
        found.append(search.morph())
    for one in found:
        assert sum("shapes were trained" in note for note in one.notes) == 1


def test_there_is_one_threshold() -> None:
    with pytest.raises(UsageError, match="there is one threshold"):
        ms.Search(
            network(), example(), "flops=50%", strategy="gamma-l1", threshold=0.1, strategy_options={"threshold": 0.2}
        )


def test_prices_of_units_call_for_a_strategy_that_has_them() -> None:
    found = ms.search(network(), data(), budget="params=50%", pricing="unit", epochs=0.2, recipe=EXACT)
    assert found.best.strategy != "trials"


@pytest.mark.parametrize("strategy", ["uniform", "random"])
def test_without_expansion_no_group_becomes_wider(strategy: str) -> None:
    search = ms.Search(network(), example(), "flops=80%", strategy=strategy, expand=False, seed=3)
    before = dict(search.graph.widths)
    after = search.morph().widths
    assert after != before
    assert all(after[name] <= width for name, width in before.items())


def test_hardware_for_a_budget_that_does_not_depend_on_it() -> None:
    config = ms.SearchConfig("digits_net", budget="flops=50%", hardware="v100", recipe=EXACT)
    for call in (lambda: plan(config), lambda: ms.Search(network(), example(), "flops=50%", hardware="v100")):
        with pytest.raises(UsageError, match=r"v100.*with flops"):
            call()
    ms.Search(network(), example(), "latency=99.9%", hardware="v100")


def test_going_on_with_no_run() -> None:
    for call in (
        lambda: ms.Search(network(), example(), "flops=50%", resume=True),
        lambda: ms.search(network(), data(), budget="flops=50%", resume=True),
        lambda: ms.sparsify(network(), data(), target="50%", resume=True),
    ):
        with pytest.raises(UsageError, match="resume=True without run_dir"):
            call()


@pytest.mark.parametrize("field", [{"batch_size": 32}, {"augment": False}])
def test_fields_about_batches_that_a_loader_makes(field: dict[str, Any]) -> None:
    loader = DataLoader(TensorDataset(*images()), batch_size=16)
    recipe = {**EXACT, **field}
    for call in (
        lambda: ms.search(network(), loader, images(40, 1), budget="flops=50%", recipe=recipe),
        lambda: ms.sparsify(network(), loader, images(40, 1), target="50%", recipe=recipe),
    ):
        with pytest.raises(UsageError, match="training data is a loader"):
            call()
    whole = {**Recipe(epochs=0.2).to_dict(), "precision": "fp32"}  # given whole, its defaults ask for nothing
    found = ms.search(network(), loader, images(40, 1), budget="flops=50%", strategy="uniform", recipe=whole)
    assert found.best.widths


def test_fields_about_a_teacher_without_one(tmp_path: Path) -> None:
    start(ms.SearchConfig("digits_net", strategy="uniform", iterations=1, recipe=EXACT), tmp_path / "run")
    for name, value in (("distill", 0.5), ("distill", 0.9), ("temperature", 2.0)):
        with pytest.raises(UsageError, match=f"{name}.*no training has a teacher"):
            retrain_run(tmp_path / "run", recipe={name: value})
        with pytest.raises(UsageError, match=name):
            ms.sparsify(network(), data(), target="50%", recipe={name: value})
    assert not (tmp_path / "run" / "retrained").exists()


def test_fields_that_a_search_keeps_for_retraining_are_told() -> None:
    shown = plan(ms.SearchConfig("digits_net", recipe={**EXACT, "ema": 0.99, "temperature": 2.0}))
    assert any("without ema and temperature" in note for note in shown.notes)
    assert not any("without" in note for note in plan(ms.SearchConfig("digits_net", recipe=EXACT)).notes)
    heard: list[str] = []

    def listener(kind: str, payload: dict[str, Any]) -> None:
        heard.extend([payload["text"]] if kind == "note" else [])

    pair = images()
    recipe = {**EXACT, "ema": 0.99}
    ms.search(network(), pair, budget="flops=50%", strategy="uniform", recipe=recipe, listener=listener)
    assert any("without ema" in text for text in heard)
    assert any("are kept for validation" in text for text in heard)


def test_candidates_beside_a_shape_that_is_given() -> None:
    for options in ({"trials": 4}, {"step": 0.5}):
        with pytest.raises(UsageError, match="with point="):
            ms.Search(
                network(), example(), "flops=50%", strategy="trials", strategy_options={"point": [0.5], **options}
            )


def test_what_blocks_ask_for_without_a_block() -> None:
    with pytest.raises(UsageError, match="without a block"):
        ms.Sparsifier(network(), "50%", steps=10, pool="max")
    ms.Sparsifier(network(), "50%", steps=10, pool="max", block=(2, 1), include=["first"])


def test_example_inputs_beside_an_architecture() -> None:
    found = ms.Search(network(), example(), "flops=50%", strategy="uniform", seed_spec="digits_net").morph()
    with pytest.raises(UsageError, match="example inputs beside an architecture"):
        ms.export(found, example_inputs=torch.zeros(1, 3, 16, 16))
