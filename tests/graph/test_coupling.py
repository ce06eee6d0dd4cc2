"""Whether what stays is coupled as before: one unit of each kind tells what all of them would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from morphsearch.graph import coupling, record
from morphsearch.graph.rules.layouts import lockstep
from morphsearch.graph.tape import Tape
from morphsearch.models import build_seed
from tests.graph import idioms, mixtures, multihead, tokens, usual  # noqa: F401  (their cases, whatever else is imported)
from tests.graph.mechanisms import CASES
from tests.torchvision_shim import models

# Some in which units may not go alone; every sixth of the others.
REFUSING = ("c2f", "one_layer_for_stream_and_skip", "res2net", "shuffle_units", "slices_written")
NAMES = sorted({*REFUSING, *sorted(name for name, case in CASES.items() if case.removable)[::6]})


def seeds() -> list[tuple[torch.nn.Module, object]]:
    small = [(CASES[name].build(), CASES[name].inputs) for name in NAMES]
    image = torch.zeros(1, 3, 64, 64)
    return [
        *small,
        (build_seed("resnet20").model, image[..., :32, :32]),
        (models().shufflenet_v2_x0_5(weights=None), image),
    ]


def test_what_is_in_lockstep_twice_is_coupled_by_either_operation():
    """Should one of them go with its branch, the other still couples the units."""
    tape = Tape(torch.nn.Identity())
    ids = torch.arange(1, 7).view(2, 3)
    made = []
    for _ in range(2):
        made.append(lockstep(tape, ids, 1))
        tape.emit("product", [], [])
    assert torch.equal(*made)
    assert {operation for _, _, operation, _ in tape.unions} == {0, 1}


def test_one_of_each_kind_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = answered = refused = 0
    rng = np.random.default_rng(0)
    for model, inputs in seeds():
        graph = record(model, inputs)
        whole = coupling.Coupling(graph)
        with monkeypatch.context() as patch:
            patch.setattr(coupling, "WORTH_CHOOSING", 0)
            quick = coupling.Coupling(graph)
        fewer += quick.one.size < whole.one.size
        asked = [[name] for name in graph.free]
        asked += [list(rng.choice(graph.free, 2, replace=False)) for _ in range(8) if len(graph.free) > 1]
        for names in asked:
            removal = graph.gone_with(names)
            if removal is not None:
                assert quick.stays(removal) == whole.stays(removal), names
                answered += 1
                refused += not whole.stays(removal)
    assert fewer > 5
    assert answered > refused > 0
