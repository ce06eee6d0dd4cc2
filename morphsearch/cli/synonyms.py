"""What an option is called elsewhere, and here: names that no edit distance leads to.

Other tools have ``--output-dir``, ``--lr`` or ``--sparsity``; who types one of these means something that is there.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields

_MEANT = {
    "--run-dir": "out output output-dir outdir out-dir save-dir log-dir logdir work-dir workdir dir folder directory",
    "--output": "out output-file file save path",
    "--target": "sparsity amount final-sparsity target-sparsity prune ratio",
    "--data": "dataset data-dir data-path train-data root",
    "--budget": "constraint target max-cost",
    "--iterations": "morphs rounds cycles iters",
    "--device": "gpu cuda cpu",
    "--strategy": "method algorithm pruner search-strategy",
    "--strength": "gamma lambda reg regularization regularization-strength alpha",
    "--input": "input-shape input-size image-size img-size resolution shape",
    "--seeds": "repeats trainings runs",
    "--seed": "random-seed rng-seed",
    "--round-to": "divisor round channel-multiple multiple-of",
    "--weights": "checkpoint ckpt pretrained resume-from",
    "--nm": "n-m semi-structured pattern",
    "--end": "end-step end-epoch",
    "--begin": "begin-step start start-step",
    "--of": "count-of",
    "--format": "to type kind",
    "--limit": "time-limit timeout seconds max-seconds",
    "--batch": "batch-size batchsize bs",
    "--threads": "num-threads cores jobs",
    "--quiet": "silent no-progress q",
    "--latency": "measure benchmark",
    "--cost": "metric by",
}
_FIELDS = {
    "learning-rate": "lr",
    "bs": "batch_size",
    "batchsize": "batch_size",
    "wd": "weight_decay",
    "optim": "optimizer",
    "amp": "precision",
    "dtype": "precision",
}
_COSTS = {"macs": "flops", "parameters": "params"} | {
    name: name for name in ("flops", "params", "latency", "activations", "memory")
}
_ARGUMENTS = frozenset("model network net arch architecture run experiment".split())
SET = "--set"
SLIP = 0.75  # as alike as an option and its slips of the finger, by the ratio of edits


def meant(option: str, options: Iterable[str], argument: str = "") -> list[str]:
    """What `option` most likely means in a command with these `options`; empty where no name is known for it.

    Args:
        argument: the command's first, which comes without an option; empty where it has none.
    """
    there, plain = list(options), option.lstrip("-").lower().replace("_", "-")
    found = [name for name, others in _MEANT.items() if name in there and plain in others.split()]
    cost = _COSTS.get(plain.removeprefix("max-").removeprefix("target-"))
    if "--budget" in there and cost:
        found.append(f"--budget {cost}=...")
    # Fields of the recipe are known to PyTorch's side only, which takes a second to load: a plain slip does without.
    if SET in there and not difflib.get_close_matches(option, there, n=1, cutoff=SLIP):
        from morphsearch.training.recipe import Recipe

        field = _FIELDS.get(plain, plain.replace("-", "_"))
        found += [f"{SET} {field}=..."] if field in {one.name for one in fields(Recipe)} else []
    if argument and plain in _ARGUMENTS:
        found.append(f"{argument}, without an option before it")
    return found


__all__ = ["meant"]
