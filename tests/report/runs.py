"""Run directories as searches leave them, made without training; and a reader of pages."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from morphsearch.loop.architecture import Architecture
from morphsearch.loop.config import SearchConfig
from morphsearch.loop.rundir import RunDirectory

SEED = {
    "stem.conv": 24,
    "residual1.conv1.conv": 24,
    "down.1.conv": 48,
    "residual2.conv1.conv": 32,
    "mix.1.conv": 64,
    "classifier": 10,
}
COSTS = {"flops": 1_217_024, "params": 44_426}
UNITS = {"flops": "FLOPs", "params": "parameters"}
BUDGET = {"text": "flops=50%", "metric": "flops", "limit": 608_512.0, "unit": "FLOPs"}
INPUTS = [{"shape": [1, 1, 8, 8], "dtype": "float32", "name": None}]


def asked(**changed: Any) -> dict[str, Any]:
    """What ``run.json`` holds."""
    config = SearchConfig("digits_net", strategy="gamma-l1", iterations=2, epochs=3.0).to_dict()
    said = {
        "seed_spec": "digits_net?num_classes=10",
        "inputs": INPUTS,
        "seed_widths": SEED,
        "seed_costs": COSTS,
        "budgets": [BUDGET],
        "strategy": "gamma-l1",
        "seed": 0,
        "versions": {"morphsearch": "0.1.0", "torch": "2.13.0"},
        "config": config,
        "data": {"name": "digits", "parts": {"train": {"count": 1295}, "val": {"count": 143}, "test": {"count": 359}}},
        **changed,
    }
    return {key: value for key, value in said.items() if key != "config" or value is not None}


def architecture(name: str, *, flops: int = 604_000, notes: tuple[str, ...] = (), **changed: int) -> Architecture:
    """One of the digits network; ``stem__conv=13`` sets a width."""
    widths = SEED | {group.replace("__", "."): width for group, width in changed.items()}
    return Architecture(
        name,
        "digits_net?num_classes=10",
        INPUTS,
        widths,
        dict(SEED),
        costs={
            metric: {"total": total, "unit": UNITS[metric]}
            for metric, total in {"flops": flops, "params": 30_000}.items()
        },
        floors={group: 0 if group.startswith("residual") else 1 for group in SEED},
        budgets=[BUDGET],
        strategy="gamma-l1",
        strength=0.4,
        multiplier=1.17,
        metrics={"val_accuracy": 0.9 + int(name) / 100},
        decisions={
            "may go:residual1.conv1.conv": "its branch can be left out",
            "may go:residual2.conv1.conv": "its branch can be left out",
        },
        notes=list(notes),
    )


def events() -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl``: two epochs, a cut, a morph."""
    status = {"costs": COSTS, "load": 2.0, "binding": "flops=50%", "alive": 192, "strength": 0.0}
    epoch = {"event": "epoch", "iteration": 1, "accuracy": 0.5, "val_loss": 1.5, "val_accuracy": 0.4}
    return [
        {**epoch, **status, "epoch": 1, "step": 40, "loss": 2.0},
        {"event": "shrunk", "iteration": 1, "step": 60, "left": 7, "costs": {"flops": 912_768, "params": 40_000}},
        {
            **epoch,
            **status,
            "epoch": 2,
            "step": 80,
            "loss": 1.0,
            "strength": 0.7,
            "costs": {"flops": 608_512, "params": 30_000},
        },
        {"event": "iteration", "iteration": "001", "costs": {"flops": 604_000, "params": 30_000}, "val_accuracy": 0.91},
    ]


def write(
    path: Path,
    *,
    found: tuple[Architecture, ...] | None = None,
    lines: list[dict[str, Any]] | None = None,
    complete: bool = True,
    **changed: Any,
) -> RunDirectory:
    """A run of two morphs; `changed` are fields of ``run.json``."""
    run = RunDirectory.create(path, asked(**changed))
    named = (architecture("001", stem__conv=13), architecture("002", flops=600_000)) if found is None else found
    for one in named:
        run.save(one, None)
    run.metrics.write_text("".join(f"{json.dumps(line)}\n" for line in (events() if lines is None else lines)))
    if complete:
        run.finish({"schema_version": 1, "best": "001", "architectures": []})
    return run


def retrain(run: RunDirectory, name: str, seed: int, accuracy: float, **changed: Any) -> Path:
    """One finished retraining."""
    folder = run.path / "retrained" / f"{name}-seed{seed}"
    folder.mkdir(parents=True)
    result = {
        "label": name,
        "seed": seed,
        "recipe": {"epochs": 3.0},
        "accuracy": accuracy,
        "loss": 0.3,
        "evaluated_on": "test",
        "test_count": 359,
        "val_accuracy": accuracy,
        "val_loss": 0.3,
        "epochs": 3.0,
        "seconds": 1.5,
        "images_per_second": 1000.0,
        "precision": {},
        "extra": {"costs": {"flops": 604_000, "params": 30_000}, "widths": SEED, "baseline_of": None},
        "schema_version": 1,
        **changed,
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def compared(run: RunDirectory) -> RunDirectory:
    """With a found architecture that beats both baselines by more than the spread."""
    for label, accuracies in {"001": (0.95, 0.96), "uniform": (0.90, 0.91), "random": (0.85, 0.86)}.items():
        for seed, accuracy in enumerate(accuracies):
            retrain(run, label, seed, accuracy)
    return run


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, the text that is read, the scripts."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._within: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "hr"):
            self._within.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._within, f"</{tag}> ends nothing"
        assert self._within.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._within[-1:] == ["script"]:
            self.scripts[-1] += data
        elif "style" not in self._within:
            self.text += data if data.strip() else " "
            self.text += " " if self._within[-1:] in (["td"], ["th"], ["p"], ["li"]) else ""

    @property
    def words(self) -> str:
        """The text with its spaces made one."""
        return " ".join(self.text.split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a name."""
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def figures(self) -> list[dict[str, Any]]:
        """What plotly is to draw."""
        found: list[dict[str, Any]] = json.loads(self.scripts[0])
        return found
