"""Every hook has documentation and an example, and every example is registered as a plugin and used."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from morphsearch import hookspecs, plugins

ROOT = Path(__file__).parents[2]


def _load_drift() -> Any:
    spec = importlib.util.spec_from_file_location("_drift", ROOT / "docs" / "_drift.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:  # it sets the environment of its own process
        patch.setenv("MORPHSEARCH_DISABLE_PLUGINS", "")
        spec.loader.exec_module(module)
    return module


drift = _load_drift()
HOOKS = drift.hooks()


def _cost_model(_: Path) -> None:
    import torch
    from torch import nn

    from morphsearch import costs
    from morphsearch.graph import record

    graph = record(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), torch.zeros(1, 3, 8, 8))
    found = costs.cost(graph, "weight-bytes")
    assert found.total == 2 * (3 * 8 * 9 + 8 * 4 * 9)
    assert found.unit == "bytes"


def _strategy(_: Path) -> None:
    import torch
    from torch import nn

    from morphsearch.graph import record

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([3.0, 0.0, 2.0, 1.0]).view(4, 1, 1, 1).expand(4, 3, 3, 3))
    graph = record(model, torch.zeros(1, 3, 8, 8))
    strategy = plugins.create("strategies", "filter-norm")
    strategy.attach(model, graph)
    (free,) = graph.free
    scores = strategy.scores()[torch.as_tensor(graph.units_of(free))]
    assert scores.argsort().tolist() == [1, 3, 2, 0]
    assert int(strategy.alive(0.0)[torch.as_tensor(graph.units_of(free))].sum()) == 3


def _operation(_: Path) -> None:
    import torch
    from torch import nn

    from morphsearch.graph import record

    class Rank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).kthvalue(3, dim=3, keepdim=True).values)

    with_rule = record(Rank(), torch.randn(1, 3, 8, 8))
    assert [with_rule.groups[name].width for name in with_rule.free] == [8]
    plugins.reset()
    without = record(Rank(), torch.randn(1, 3, 8, 8))
    assert without.free == []
    assert any("kthvalue" in str(group.frozen) for group in without.groups.values())


def _model(_: Path) -> None:
    import torch

    from morphsearch.models import build_seed

    seed = build_seed("tiny_cnn?width=4", num_classes=7)
    assert seed.input_shape == (3, 32, 32)
    assert seed.model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def _data(_: Path) -> None:
    from morphsearch.data import load

    splits = load("stripes:50", seed=3, val_fraction=0.2)
    assert (len(splits.train), len(splits.val)) == (40, 10)
    assert splits.classes == ["horizontal", "vertical"]
    images, labels = next(iter(splits.train.batches(8, shuffle_seed=0, augment=False)))
    assert images.shape == (8, 1, 8, 8)
    assert set(labels.tolist()) <= {0, 1}


def _exporter(folder: Path) -> None:
    exporter = plugins.create("exporters", "csv")
    exporter.export(types.SimpleNamespace(widths={"a": 3, "b": 5}), folder / "widths.csv")
    assert (folder / "widths.csv").read_text() == "group,width\na,3\nb,5\n"


def _executor(_: Path) -> None:
    executor = plugins.create("executors", "threads")
    assert dict(executor.run([lambda: "x", lambda: "y", lambda: "z"])) == {0: "x", 1: "y", 2: "z"}
    with pytest.raises(ZeroDivisionError):
        list(executor.run([lambda: 1 / 0]))


def _command(_: Path) -> None:
    from click.testing import CliRunner

    from morphsearch.cli import main

    runner = CliRunner()
    assert re.search(r"groups\s+Print the width of every group", runner.invoke(main, ["--help"]).output)
    done = runner.invoke(main, ["groups", "digits_net"])
    assert done.exit_code == 0, done.output
    assert re.fullmatch(r"(\S+ \d+\n)+", done.output)


def _latency_backend(_: Path) -> None:
    import torch
    from torch import nn

    from morphsearch.hardware import Settings

    backend = plugins.create("latency_backends", "channels-last")
    model, x = nn.Conv2d(3, 4, 3).eval(), torch.randn(1, 3, 6, 6)
    expected = model(x).detach()
    found = backend.prepare(model, [x], Settings("channels-last"))()
    assert torch.allclose(found, expected, atol=1e-6)
    assert backend.observe(model, [x], Settings("channels-last"), 3) == []


def _iteration_end(folder: Path) -> None:
    architecture = types.SimpleNamespace(name="002", widths={"a": 3, "b": 5})
    search = types.SimpleNamespace(run=types.SimpleNamespace(path=folder))
    plugins.fire("morphsearch_iteration_end", search=search, architecture=architecture)
    assert (folder / "widths.log").read_text() == "002 8\n"


def _search_end(folder: Path) -> None:
    plugins.fire("morphsearch_search_end", result=types.SimpleNamespace(architectures=[1, 2], run_dir=folder))
    assert (folder / "DONE").read_text() == "2 architectures\n"


CHECKS: dict[str, Callable[[Path], None]] = {
    "morphsearch_cost_models": _cost_model,
    "morphsearch_strategies": _strategy,
    "morphsearch_operations": _operation,
    "morphsearch_models": _model,
    "morphsearch_data": _data,
    "morphsearch_exporters": _exporter,
    "morphsearch_executors": _executor,
    "morphsearch_latency_backends": _latency_backend,
    "morphsearch_commands": _command,
    "morphsearch_iteration_end": _iteration_end,
    "morphsearch_search_end": _search_end,
}


@pytest.mark.parametrize("name", HOOKS)
def test_the_example_of_every_hook_works(name: str, tmp_path: Path) -> None:
    plugin = types.ModuleType(f"example_of_{name}")
    exec(compile(drift.example(HOOKS[name]), plugin.__name__, "exec"), plugin.__dict__)
    plugins.register(plugin)
    CHECKS[name](tmp_path)
    assert not plugins.problems()


def test_every_hook_is_known_documented_and_tested() -> None:
    known = [kind.hook for kind in plugins.KINDS.values()] + list(plugins.EVENTS)
    assert list(HOOKS) == known
    assert set(CHECKS) == set(known)
    page = (ROOT / "docs" / "reference" / "hooks.md").read_text()
    for name, hook in HOOKS.items():
        assert f"\n## {name}\n" in page
        summary = (inspect.getdoc(hook) or "").splitlines()[0]
        assert summary.endswith(".")


def test_the_reference_is_what_the_code_says() -> None:
    # In a process of its own, since other tests register commands.
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "_drift.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_hookspecs_import_types_only() -> None:
    code = "import sys, morphsearch.hookspecs; print(sorted(m for m in sys.modules if m.startswith('morphsearch.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ast.literal_eval(done.stdout)) <= {"morphsearch.hookspecs", "morphsearch.types", "morphsearch.errors"}


def test_the_marker_is_public() -> None:
    import morphsearch

    assert morphsearch.hookimpl is hookspecs.hookimpl
