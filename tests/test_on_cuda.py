"""What runs on a CPU runs on a GPU: searches, live shrinking, sparsity, graphs, latency. Skipped where there is none.

``MORPHSEARCH_TEST_DEVICE=cpu`` runs the same on the CPU, to see whether a failure is the GPU's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import morphsearch as ms
from morphsearch.cli import main
from morphsearch.data import as_splits, load
from morphsearch.files import read_tensors
from morphsearch.hardware.measure import Session, profile
from morphsearch.hardware.sampling import Target
from morphsearch.hardware.settings import Settings
from morphsearch.loop.run import resume, start
from morphsearch.sparsity import Schedule, SparsifyConfig
from morphsearch.sparsity.run import start as sparsify
from morphsearch.testing.networks import NETWORKS, example_inputs
from morphsearch.training import Recipe, Trainer, retrain

DEVICE = os.environ.get("MORPHSEARCH_TEST_DEVICE", "cuda")
STRATEGIES = (
    *("gamma-l1", "group-lasso", "logistic-sigmoid", "magnitude", "taylor"),
    *("slimmable", "trials", "uniform", "random"),
)
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(autouse=True)
def exact() -> Any:
    """Float32 as it is: some GPUs shorten it for convolutions."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 5
    centres = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    return centres[labels] + 0.5 * torch.randn(count, 3, 8, 8, generator=generator), labels


def config(strategy: str, **more: Any) -> ms.SearchConfig:
    recipe = {"batch_size": 128, "precision": "fp32", "channels_last": False}
    given = {"budget": ("flops=60%",), "iterations": 1, "epochs": 3, "recipe": recipe, "device": DEVICE, **more}
    return ms.SearchConfig("digits_net", strategy=strategy, **given)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_meets_the_budget(strategy: str, tmp_path: Path) -> None:
    result = start(config(strategy), tmp_path / "run")
    found = result.architectures[-1]
    assert found.costs["flops"]["total"] <= 0.6 * ms.cost(_graph(), "flops").total
    net = found.build().to(DEVICE)
    assert net(torch.zeros(2, 1, 8, 8, device=DEVICE)).shape == (2, 10)


def _graph() -> ms.ConvGraph:
    from morphsearch.models import build_seed

    return ms.record(build_seed("digits_net").model, torch.zeros(1, 1, 8, 8))


def test_a_stopped_search_goes_on(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    seen = []

    def stopping(kind: str, payload: dict[str, Any]) -> None:
        seen.append(kind)
        if kind == "epoch" and seen.count("epoch") == 3:
            raise Stop

    with pytest.raises(Stop):
        start(config("gamma-l1", iterations=2), tmp_path / "run", listener=stopping)
    assert len(resume(tmp_path / "run").architectures) == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_goes_on_from_its_state(precision: str) -> None:
    data = as_splits(images(96, 0), images(40, 1), images(40, 2))
    recipe = Recipe(epochs=3, batch_size=16, precision=precision, channels_last=False, device=DEVICE, lr=0.02)

    def net() -> nn.Module:
        torch.manual_seed(0)
        return NETWORKS["residual"]()

    whole = Trainer(net(), data, recipe)
    first = Trainer(net(), data, recipe)
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        while not whole.finished:
            whole.train_epoch()
        first.train_epoch(on_batch=lambda trainer: trainer.stop() if trainer.batch == 3 else None)
        second = Trainer(net(), data, recipe)
        second.load_state(*first.state())
        while not second.finished:
            second.train_epoch()
    finally:
        torch.backends.cudnn.deterministic = before
    assert second.step == whole.step
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_augmented_batches_are_those_of_the_cpu() -> None:
    split = load("digits").train
    for (x, y), (there, labels) in zip(
        split.batches(64, shuffle_seed=1, augment=True),
        split.batches(64, shuffle_seed=1, augment=True, device=DEVICE),
        strict=True,
    ):
        assert there.device.type == torch.device(DEVICE).type
        torch.testing.assert_close(there.cpu(), x)
        assert torch.equal(labels.cpu(), y)


@pytest.mark.parametrize("strategy", ["gamma-l1", "group-lasso", "logistic-sigmoid", "magnitude", "taylor"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_units_leave_in_the_users_own_loop(strategy: str, name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS["residual"]().train().to(DEVICE)
    x, y = (value.to(DEVICE) for value in images(64, 0))
    search = ms.Search(model, x[:1], budget="flops=50%", steps=60, strategy=strategy)
    seed = ms.cost(search.graph, "flops").total
    parameters = search.model.parameters()
    optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    if name == "adamw":
        optimizer = torch.optim.AdamW(search.model.parameters(), lr=5e-3)
    search.follow(optimizer)
    for _ in range(2):
        for _ in range(60):
            loss = nn.functional.cross_entropy(search.model(x), y) + search.penalty()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            search.step()
        found = search.morph()
        assert found.costs["flops"]["total"] <= seed / 2
        assert all(parameter.device.type == torch.device(DEVICE).type for parameter in search.model.parameters())
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_what_is_proved_on_the_cpu_holds(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = NETWORKS[name]().eval().to(DEVICE), example_inputs().to(DEVICE)
    assert ms.verify(model, inputs).exact
    graph = ms.record(model, inputs)
    keep = {g.name: list(range(0, g.width, 2)) for g in graph.groups.values() if g.frozen is None and g.multiple <= 1}
    small = graph.shrink(keep)
    assert all(parameter.device.type == torch.device(DEVICE).type for parameter in small.parameters())
    wide = graph.resize({name: 2 * graph.widths[name] for name in keep}, weights="widen")
    assert all(parameter.device.type == torch.device(DEVICE).type for parameter in wide.parameters())
    torch.testing.assert_close(wide.eval()(inputs), model(inputs), rtol=1e-3, atol=1e-4)


def test_masked_weights_stay_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NETWORKS["residual"]().train().to(DEVICE)
    x, y = (value.to(DEVICE) for value in images(64, 0))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=0.01)
    sparsifier = ms.Sparsifier(model, schedule=Schedule.polynomial(0.7, begin=3, end=25, frequency=4))
    sparsifier.follow(optimizer)
    for _ in range(40):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsifier.step()
    assert sparsifier.report().reached == pytest.approx(0.7, abs=0.01)
    sparsifier.strip()
    done = sparsify(
        SparsifyConfig("digits_net", "70%", epochs=2, recipe={"batch_size": 128}, device=DEVICE), tmp_path / "run"
    )
    assert done.report.reached == pytest.approx(0.7, abs=0.01)


def test_a_retraining_with_an_average_and_a_teacher(tmp_path: Path) -> None:
    data = as_splits(images(96, 0), images(40, 1), images(40, 2))
    recipe = Recipe(epochs=2, batch_size=16, device=DEVICE, ema=0.9, lr=0.02)
    retrain(lambda: NETWORKS["residual"](), data, recipe, seed=0, folder=tmp_path, label="x", teacher=NETWORKS["plain"])
    weights = read_tensors(tmp_path / "weights.safetensors")
    assert weights.keys() == NETWORKS["residual"]().state_dict().keys()
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "compile"])
def test_latency(backend: str) -> None:
    settings = Settings(backend, device=DEVICE, batch=4)
    model = NETWORKS["residual"]().eval()
    target = Target.of("residual", model, example_inputs())
    timing = Session(settings, rounds=2).time([(model, example_inputs())])[0]
    assert timing.ms > 0
    if backend == "eager":
        found = profile([target], settings, networks=8, limit=60)
        assert len(found.samples) == 8
        kinds = set(found.samples[0].seen[0])
        assert "conv" in kinds or "conv_1x1" in kinds
        bound = found.bind(target.graph)
        assert bound.total(torch.tensor([float(w) for w in target.graph.widths.values()])) > 0


def test_the_commands(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    for line in (
        f"search digits_net --data digits --budget flops=60% --epochs 2 --device {DEVICE} --run-dir {run}",
        f"retrain {run} --epochs 2 --seeds 2 --baselines uniform",
        f"compare {run}",
        f"sparsify {run} --weights retrained --target 70% --epochs 2 --device {DEVICE}",
        f"export {run} --output {tmp_path / 'net.py'}",
    ):
        done = CliRunner().invoke(main, line.split())
        assert done.exit_code == 0, (line, done.output, done.exception)
