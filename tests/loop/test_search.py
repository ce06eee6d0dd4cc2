"""``ms.search``, and architectures as things to build from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loop_fakes import EXACT, counted, data, example, images, network
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import morphsearch as ms
from morphsearch.errors import InputError, UsageError
from morphsearch.loop import runner
from morphsearch.models import build_seed
from morphsearch.testing.networks import NETWORKS
from morphsearch.training import Recipe


class Pairs(Dataset[tuple[torch.Tensor, int]]):
    """A map-style dataset of the user's own."""

    def __init__(self, count: int, seed: int) -> None:
        self.x, self.y = images(count, seed)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.x[index], int(self.y[index])


def loader(count: int, seed: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*images(count, seed)), batch_size=16)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        pytest.param(images(96), images(40, 1), id="tensors"),
        pytest.param(images(96), None, id="validation carved out"),
        pytest.param(loader(96, 0), loader(40, 1), id="loaders"),
        pytest.param(Pairs(96, 0), Pairs(40, 1), id="datasets"),
        pytest.param(data(), None, id="splits"),
    ],
)
def test_any_data_of_the_users(train: Any, val: Any, tmp_path: Path) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    result = ms.search(
        network(),
        train,
        val,
        budget="flops=50%",
        iterations=2,
        epochs=2,
        run_dir=tmp_path / "run",
        recipe=EXACT,
        listener=lambda kind, payload: heard.append((kind, payload)),
    )
    seed = counted(network())
    assert [a.name for a in result.architectures] == ["001", "002"]
    assert result.best in result.architectures
    assert all(a.costs["flops"]["total"] <= seed["flops"] / 2 for a in result.architectures)
    assert all(0 <= (a.metrics["val_accuracy"] or 0) <= 1 for a in result.architectures)
    assert counted(result.model)["flops"] == result.architectures[-1].costs["flops"]["total"]
    frame = result.to_dataframe()
    assert list(frame["name"]) == ["001", "002"]
    assert {"flops", "params", "val_accuracy", "multiplier", "width:stem.0"} <= set(frame.columns)
    kinds = [kind for kind, _ in heard]
    assert kinds.count("iteration") == 2
    assert kinds[-1] == "end"
    progress = [payload for kind, payload in heard if kind == "progress"]
    assert progress
    assert all({"phase", "done", "total", "unit", "strength"} <= payload.keys() for payload in progress)


@pytest.mark.parametrize(("count", "after_an_epoch"), [(800, 80), (6400, 512)])
def test_batch_norm_statistics_are_taken_from_a_few_images(
    count: int, after_an_epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tenth of the epoch and at most 512 where units are pressed; of 1,024 for the network that is judged."""
    seen: list[int] = []

    def spy(model: nn.Module, split: Any, *, batches: int, batch_size: int, seed: int) -> None:
        seen.append(batches * batch_size)

    monkeypatch.setattr(runner, "reestimate_batchnorm", spy)
    search = ms.Search(network(), example(), "flops=60%", strategy="gamma-l1", warmup=0.0)
    recipe = Recipe.from_dict({**EXACT, "lr": 0.05, "epochs": 1})
    runner.Runner(search, data(count), recipe, 1, 0, None).go()
    assert seen == [after_an_epoch, 1024]


def test_without_a_run_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = ms.search(network(), data(), budget="params=60%", iterations=1, epochs=1, recipe=EXACT)
    assert result.run_dir is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("strategy", ["uniform", "random"])
def test_strategies_without_training(strategy: str, tmp_path: Path) -> None:
    heard: list[str] = []
    result = ms.search(
        network("plain"),
        data(),
        budget="flops=50%",
        strategy=strategy,
        iterations=1,
        recipe=EXACT,
        run_dir=tmp_path / "run",
        listener=lambda kind, payload: heard.append(kind),
    )
    (found,) = result.architectures
    assert found.costs["flops"]["total"] <= counted(network("plain"))["flops"] / 2
    assert found.strength is None
    assert found.threshold is None
    assert "progress" not in heard
    assert ms.Architecture.load(tmp_path / "run/iterations/001") == found


@pytest.mark.parametrize("iterations", [0, -1, 1.5, True])
def test_fewer_than_one_morph(iterations: Any) -> None:
    with pytest.raises(UsageError, match="iterations"):
        ms.search(network(), data(), budget="flops=50%", iterations=iterations)


def test_images_that_the_network_does_not_take() -> None:
    gray = (torch.zeros(40, 1, 8, 8), torch.arange(40) % 5)
    with pytest.raises(InputError):
        ms.search(network(), gray, budget="flops=50%", recipe=EXACT)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search from a seed that a file can name."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    config = ms.SearchConfig(
        "digits_net", budget=("flops=50%",), iterations=1, epochs=0.4, recipe={**EXACT, "batch_size": 128}
    )
    from morphsearch.loop.run import start

    start(config, path)
    return path


def test_an_architecture_builds_a_fresh_plain_network(digits_run: Path) -> None:
    found = ms.Architecture.load(digits_run / "iterations/001/architecture.json")
    net, twin = found.build(), found.build()
    assert {type(m).__module__.split(".")[0] for m in net.modules()} <= {"torch", "morphsearch"}
    assert counted(net, torch.zeros(1, 1, 8, 8)) == found.totals
    assert ms.record(net, torch.zeros(1, 1, 8, 8)).widths == {n: w for n, w in found.widths.items() if w}
    assert not torch.equal(net.stem[0].weight, twin.stem[0].weight)  # fresh, not inherited
    net.load_state_dict(found.weights())
    net.eval()(torch.zeros(2, 1, 8, 8))


def test_an_architecture_applies_to_the_users_own_constructor(digits_run: Path) -> None:
    found = ms.Architecture.load(digits_run / "iterations" / "001")
    mine = build_seed("digits_net", num_classes=10, input_shape=(1, 8, 8)).model
    net = found.apply(mine)
    assert ms.record(net, torch.zeros(1, 1, 8, 8)).widths == {n: w for n, w in found.widths.items() if w}
    with pytest.raises(InputError, match="in this network and"):
        found.apply(build_seed("digits_net", num_classes=7, input_shape=(1, 8, 8)).model)
    with pytest.raises(InputError):
        found.apply(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))


def test_an_architecture_holds_all_that_repeats_it(digits_run: Path) -> None:
    found = ms.Architecture.load(digits_run / "iterations" / "001")
    assert found.record["torch"] == torch.__version__
    assert {"morphsearch", "python", "seed", "config", "data", "limit", "shrink_to", "round_to"} <= found.record.keys()
    config = ms.SearchConfig.from_dict(found.record["config"])
    assert config.model == "digits_net"
    assert found.parent is None
    assert found.budgets[0]["text"] == "flops=50%"
    assert {name: len(units) for name, units in found.kept.items()} == found.widths
    assert found.floors.keys() == found.widths.keys()


def test_a_network_without_a_spec_says_to_use_apply(tmp_path: Path) -> None:
    search = ms.Search(network("depthwise"), example(), "flops=70%", run_dir=tmp_path / "run")
    search.morph()
    found = ms.Architecture.load(tmp_path / "run/iterations/001")
    with pytest.raises(UsageError, match="does not say how its seed is built") as caught:
        found.build()
    assert "apply(network)" in caught.value.repair
    net = found.apply(NETWORKS["depthwise"]())
    assert counted(net)["flops"] == found.costs["flops"]["total"]
    net.load_state_dict(found.weights())


def test_several_inputs_by_name(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
            self.head = nn.Linear(6, 2)

        def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.head((self.a(image) * mask).mean((2, 3)))

    inputs = {"image": torch.zeros(1, 3, 8, 8), "mask": torch.ones(1, 1, 8, 8)}
    search = ms.Search(Two(), inputs, "flops=50%", run_dir=tmp_path / "run")
    search.morph()
    found = ms.Architecture.load(tmp_path / "run/iterations/001")
    assert found.apply(Two()).a[0].out_channels == found.widths["a.0"]
    with pytest.raises(UsageError, match="is a str"):
        ms.Search(Two(), {**inputs, "mode": "x"}, "flops=50%")
