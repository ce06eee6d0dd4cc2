"""Helpers: a network at other widths, its source, and the network that the source makes."""

from __future__ import annotations

import ast
import copy
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.exporting.comparing import error
from morphsearch.exporting.python import source_of
from morphsearch.exporting.source import Source
from morphsearch.graph import record
from morphsearch.loop.architecture import describe_inputs
from morphsearch.loop.verification import inputs_like, randomise
from tests.graph import proofs


def resized(seed: nn.Module, inputs: Any, factor: float = 0.6) -> tuple[nn.Module, Source]:
    """The seed at `factor` times its widths, and the architecture of that."""
    graph = record(seed, inputs)
    widths = {**graph.widths, **proofs.scaled(graph, factor)}
    architecture = Source("001", None, describe_inputs(inputs), widths, graph.widths, {})
    return graph.resize(widths), architecture


def source(model: nn.Module, architecture: Source) -> str:
    """The exporter's text."""
    return source_of(model, architecture)[0]


def construct(text: str) -> nn.Module:
    """The network in a file, run as a module of its own."""
    module = ModuleType("exported")
    exec(compile(text, "exported.py", "exec"), vars(module))
    name = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)][-1]
    made = getattr(module, name)()
    assert isinstance(made, nn.Module)
    return made


def assert_same(model: nn.Module, text: str, inputs: Any) -> None:
    """Equal names, equal outputs in both modes, equal buffers after a training step, in float64."""
    reference = copy.deepcopy(model).double()
    randomise(reference, torch.Generator().manual_seed(5))
    made = construct(text).double()
    made.load_state_dict(reference.state_dict())
    assert {n for n, _ in made.named_parameters()} == {n for n, _ in reference.named_parameters()}
    args, kwargs = inputs_like(inputs, torch.Generator().manual_seed(6))
    for training in (False, True):
        outputs = []
        for network in (reference, made):
            network.train(training)
            torch.manual_seed(7)
            outputs.append(network(*copy.deepcopy(args), **copy.deepcopy(kwargs)))
        assert type(outputs[0]) is type(outputs[1]) or isinstance(outputs[0], tuple)
        assert error(*outputs) <= 1e-6
    for name, buffer in reference.named_buffers():
        assert torch.allclose(buffer, made.get_buffer(name), atol=1e-9), name


def tensors(*shape: int) -> Tensor:
    """Zeros."""
    return torch.zeros(*shape)
