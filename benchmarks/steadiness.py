"""A grid of short searches with nothing tuned: strategies x costs x networks x learning rates, on the digits.

    python benchmarks/steadiness.py [--seconds 1200] [--epochs 10] [--report]

A cell is one search with one morph, to half of the seed's FLOPs, parameters or both, of 10 epochs in batches of 64
(about 200 steps). Beside it stands the seed, trained as long with the same learning rate. A cell says whether the cost
reached the morph's target (0.75 of the budget, which the expansion then fills) by itself before the end of the
schedule, how the accuracy on the validation part went (the lowest and the last of the pressed epochs, and after the
morph), and all that the search had to say. Cells that are done are kept in benchmarks/results/steadiness.jsonl, one
line each; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from morphsearch.data import load
from morphsearch.errors import MorphError, StoppedError
from morphsearch.loop.config import SearchConfig
from morphsearch.loop.run import start
from morphsearch.models import build_seed
from morphsearch.training import Recipe, Trainer

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "steadiness.jsonl"
OWN = HERE / "steadiness_networks.py"
NETWORKS = {
    "digits_net": "digits_net",
    "vgg-like": f"{OWN}:vgg",
    "without norms": f"{OWN}:bare",
    "resnet20": "resnet20",
    "mobilenet_v1 x0.25": "mobilenet_v1?alpha=0.25",
}
COSTS = {"flops": ("flops=50%",), "params": ("params=50%",), "both": ("flops=50%", "params=50%")}
STRATEGIES = ("gamma-l1", "group-lasso", "logistic-sigmoid", "magnitude", "taylor")
RATES = (0.2, 0.02)
TARGET = 0.75  # of the budget, before the expansion
REACHED = 1.02  # times the target
LAST = 3  # epochs that an accuracy is the mean of


def recipe(rate: float) -> dict[str, Any]:
    return {"lr": rate, "batch_size": 64, "precision": "fp32", "channels_last": False, "device": "cpu"}


def plain(network: str, rate: float, epochs: int) -> dict[str, Any]:
    """The seed, trained as long."""
    torch.manual_seed(0)
    data = load("digits", seed=0)
    model = build_seed(NETWORKS[network], num_classes=10, input_shape=data.shape, allow_code=True).model
    trainer = Trainer(model, data, Recipe(epochs=epochs, **{**recipe(rate), "schedule": "constant"}), seed=0)
    accuracy = []
    while not trainer.finished:
        trainer.train_epoch()
        accuracy.append(round(trainer.evaluate(data.val).accuracy, 4))
    return {"accuracy": accuracy}


def search(strategy: str, cost: str, network: str, rate: float, epochs: int) -> dict[str, Any]:
    """One search, as its files and listeners tell it."""
    heard: list[str] = []

    def listen(kind: str, payload: dict[str, Any]) -> None:
        if kind == "warning":
            heard.append(str(payload.get("text") or payload.get("message") or payload))

    config = SearchConfig(
        NETWORKS[network],
        budget=COSTS[cost],
        strategy=strategy,
        iterations=1,
        epochs=epochs,
        recipe=recipe(rate),
        device="cpu",
        allow_code=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        try:
            found = start(config, run, listener=listen).architectures[-1]
        except StoppedError:
            raise
        except MorphError as error:
            return {"error": f"{type(error).__name__}: {error.arrived}", "repair": error.repair}
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    events = [line for line in lines if line["event"] == "epoch"]
    return {
        "accuracy": [round(event["val_accuracy"], 4) for event in events],
        "load": [round(event["load"] / TARGET, 4) for event in events],
        "strength": [float(f"{event['strength']:.4g}") for event in events],
        "after": found.metrics.get("val_accuracy"),
        "left_out": sum(not width for width in found.widths.values()),
        "notes": found.notes,
        "warnings": heard,
    }


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["strategy"], line["cost"], line["network"], line["rate"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1e9, help="start no new cell after so many")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--report", action="store_true", help="print the table of what is done, and run nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    if not args.report:
        begun = time.monotonic()
        done = {key(line) for line in lines}
        cells = [("none", "none", network, rate) for network, rate in product(NETWORKS, RATES)]
        cells += [(s, c, n, r) for c, r, n, s in product(COSTS, RATES, NETWORKS, STRATEGIES)]
        for strategy, cost, network, rate in cells:
            if (strategy, cost, network, rate) in done or time.monotonic() - begun > args.seconds:
                continue
            if strategy == "none":
                result = plain(network, rate, args.epochs)
            else:
                result = search(strategy, cost, network, rate, args.epochs)
            about = {"strategy": strategy, "cost": cost, "network": network, "rate": rate, "epochs": args.epochs}
            lines.append({**about, **result})
            with RESULTS.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print(json.dumps(lines[-1]), flush=True)
    print(table(lines))


def settled(accuracy: list[float]) -> float:
    """The mean of the last epochs, in per cent: at a constant rate a single one swings by several points."""
    return 100 * statistics.mean(accuracy[-LAST:])


def table(lines: list[dict[str, Any]]) -> str:
    """By network, learning rate and strategy: accuracies under every cost, and what happened on the way."""
    plains = {(one["network"], one["rate"]): one["accuracy"] for one in lines if one["strategy"] == "none"}
    head = "| network | lr | seed | " + " | ".join(STRATEGIES) + " |"
    rows = [head, "|" + "---|" * (3 + len(STRATEGIES))]
    for network, rate in product(NETWORKS, RATES):
        if (network, rate) not in plains:
            continue
        texts = [network, f"{rate:g}", f"{settled(plains[network, rate]):.1f}"]
        for strategy in STRATEGIES:
            own = {o["cost"]: o for o in lines if (o["strategy"], o["network"], o["rate"]) == (strategy, network, rate)}
            refused = bool(own) and all("error" in one for one in own.values())
            texts.append("refused" if refused else ", ".join(described(own.get(cost)) for cost in COSTS))
        rows.append("| " + " | ".join(texts) + " |")
    good = [one for one in lines if "load" in one]
    reached = sum(one["load"][-1] <= REACHED for one in good)
    rows += ["", f"{reached} of {len(good)} searches reached their target; {sum(map(anew, good))} began anew."]
    return "\n".join(rows)


def described(cell: dict[str, Any] | None) -> str:
    """Accuracy; `*` where the morph began anew, `!` where the target was not reached."""
    if cell is None or "error" in cell:
        return "-"
    return f"{settled(cell['accuracy']):.1f}{'*' * anew(cell)}{'!' * (cell['load'][-1] > REACHED)}"


def anew(cell: dict[str, Any]) -> bool:
    """Whether the search went back to the beginning of its morph."""
    return any("Going on from step 0" in text for text in cell["warnings"])


if __name__ == "__main__":
    main()
