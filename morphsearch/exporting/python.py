"""The exporter ``python``: one readable file with an ``nn.Module`` that needs nothing but torch."""

from __future__ import annotations

import ast
import copy
import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from morphsearch.errors import GraphError, InputError, UsageError
from morphsearch.exporting.assemble import assemble
from morphsearch.exporting.capture import Captured, capture
from morphsearch.exporting.comparing import cast, error, gradient_error, random_inputs, step
from morphsearch.exporting.source import Source, inputs_of, load
from morphsearch.files import atomic_path, read_tensors, write_tensors
from morphsearch.graph.outside import kept_outside
from morphsearch.loop.verification import randomise

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
IMPORTS = frozenset("__future__ base64 collections json math pathlib torch typing zlib".split())
# Sizes that the file is tried on beyond those of the trace: height and width grow by these.
SIZES = ((0, 0), (1, 2), (32, 64), (5, 3))


class PythonExporter:
    """The network as source: classes like the seed's own, constructors of torch, the seed's names of parameters."""

    suffix = ".py"

    def export(
        self, architecture: Any, destination: Any, *, weights: Any = None, allow_code: bool = False
    ) -> Sequence[str]:
        """Write `architecture` to the path `destination`, and `weights`, where given, beside it as safetensors.

        The file is run in a namespace of its own, with the weights, and compared with the network before it is written:
        outputs in evaluation mode at several sizes, outputs, gradients and buffers of a training step.

        Returns:
            What the user should know.

        Raises:
            InputError: no source can be written, or it does not compute the same.
        """
        path = Path(destination)
        fresh = architecture.build(allow_code=allow_code).cpu()
        given = isinstance(architecture, Source) and architecture.model is not None
        if weights is not None:
            load(copy.deepcopy(fresh), weights)
        beside = path.with_suffix(".safetensors")
        if weights is not None:
            _keep(beside, path, weights)
        text, notes = source_of(fresh, architecture, drawn=not given, weights=weights, name=beside.name)
        with atomic_path(path) as temporary:  # both files, or neither
            temporary.write_text(text, encoding="utf-8")
            if weights is not None:
                write_tensors(beside, weights)
        return notes


def source_of(
    fresh: nn.Module,
    architecture: Any,
    *,
    drawn: bool = True,
    weights: Mapping[str, Any] | None = None,
    name: str = "weights.safetensors",
) -> tuple[str, list[str]]:
    """The checked source of a network, and what the user should know about it.

    Args:
        fresh: the network with the weights that its source is to have when it is new.
        architecture: what the heading tells about it, and its inputs.
        drawn: `fresh` was drawn as morphsearch draws weights, so that the source can draw them alike.
        weights: to check it with too. name: of the file that they are in.

    Raises:
        InputError: no source can be written, or it does not compute the same.
    """
    held = [*fresh.named_parameters(), *fresh.named_buffers()]
    if strange := [name for name, tensor in held if tensor.is_complex()]:
        raise InputError(
            f"{strange[0]} is complex",
            "a network that is written as source has real parameters and buffers",
            "export it as onnx or pt2",
        )
    inputs = inputs_of(architecture)
    model = copy.deepcopy(fresh)
    randomise(model, torch.Generator().manual_seed(0))
    failure: InputError | None = None
    for spatial, training in ((True, True), (False, True), (True, False), (False, False)):
        captured = capture(fresh, model, inputs, spatial=spatial, training=training, drawn=drawn)
        sizes = SIZES if captured.spatial else SIZES[:1]
        text = assemble(architecture, captured, weights=name)
        try:
            notes = check(text, model, inputs, captured, sizes)
            if weights is not None:
                loaded = copy.deepcopy(fresh)
                load(loaded, weights)
                check(text, loaded, inputs, captured, sizes[:1])
        except Mismatch as mismatch:
            failure = failure or mismatch
            continue
        if captured.trains is False and failure is not None and training is False:
            captured.notes.append(f"it holds the evaluation path only, in both modes ({failure.arrived})")
            text = assemble(architecture, captured, weights=name)
        return text, [*captured.notes, *notes]
    assert failure is not None
    raise failure


def _keep(beside: Path, path: Path, weights: Mapping[str, Any]) -> None:
    """Refuse to put weights in the place of a file that is not an earlier export's."""
    if not beside.exists() or path.exists():
        return
    there = read_tensors(beside)
    if there.keys() != weights.keys() or not all(torch.equal(there[name], weights[name].cpu()) for name in there):
        raise UsageError(
            f"{beside} holds other weights",
            "the weights of a python export go beside it, and nothing is overwritten but an earlier export",
            "choose another --output",
        )


class Mismatch(GraphError):
    """The source does not compute what the network does."""


def check(text: str, model: nn.Module, inputs: Any, captured: Captured, sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Compare the network that a source makes with the one it was made of, with equal weights.

    Returns:
        What differs without making it wrong.

    Raises:
        Mismatch: outputs differ, or what a training step leaves behind.
    """
    dtype, tolerance = captured.dtype, TOLERANCE[captured.dtype]
    reference = copy.deepcopy(model).to(dtype).eval()
    made = construct(text, captured.class_name).to(dtype).eval()
    names = list(made.state_dict())
    if sorted(names) != sorted(reference.state_dict()):
        differing = sorted(set(names) ^ set(reference.state_dict()))[0]
        raise _mismatch(f"names of parameters differ: {differing}")
    made.load_state_dict(reference.state_dict())
    tried = 0
    for batch in (None, 1, 3) if captured.batch else (None,):
        for grow in sizes if batch is None else sizes[:1]:
            args, kwargs = cast(random_inputs(inputs, batch=batch, grow=grow, seed=3), dtype)
            try:
                with torch.no_grad(), redirect_stderr(io.StringIO()):
                    expected = reference(*copy.deepcopy(args), **copy.deepcopy(kwargs))
            except Exception:
                if not tried:
                    raise
                continue  # the network itself does not take this size
            tried += 1
            found = _run(made, args, kwargs)
            if (worst := error(expected, found)) > tolerance:
                raise _mismatch(f"outputs differ by {worst:.2g} on inputs of {_shapes(args, kwargs)}")
    return _check_training(made, reference, inputs, captured, tolerance) if captured.trains else []


def _check_training(
    made: nn.Module, reference: nn.Module, inputs: Any, captured: Captured, tolerance: float
) -> list[str]:
    args, kwargs = cast(random_inputs(inputs, batch=2 if captured.batch else None, seed=4), captured.dtype)
    outputs, gradients, buffers = step(reference, *copy.deepcopy((args, kwargs)))
    try:
        ours, own_gradients, own_buffers = step(made, args, kwargs)
    except Exception as failure:
        raise _mismatch(f"a training step fails: {type(failure).__name__}: {failure}") from failure
    own_buffers = {name: own_buffers[name] for name in buffers if name in own_buffers}  # in one order
    for what, one, other in (("outputs", outputs, ours), ("buffers", buffers, own_buffers)):
        if (worst := error(one, other)) > tolerance:
            raise _mismatch(f"{what} of a training step differ by {worst:.2g}")
    one = {name: gradients[name] for name in sorted(gradients)}
    other = {name: own_gradients[name] for name in sorted(own_gradients)}
    worst = gradient_error(one, other) if list(one) == list(other) else float("inf")
    if worst > 10 * tolerance:
        return [f"its gradients differ from the seed's (by {worst:.2g}): the seed brings gradients of its own"]
    return []


def _run(model: nn.Module, args: Any, kwargs: Any) -> Any:
    try:
        with kept_outside(model.modules()), torch.no_grad():
            return model(*args, **kwargs)
    except Exception as failure:
        raise _mismatch(
            f"it fails on inputs of {_shapes(args, kwargs)}: {type(failure).__name__}: {failure}"
        ) from failure


def construct(text: str, name: str) -> nn.Module:
    """The network that a source makes, run in a namespace of its own.

    Raises:
        Mismatch: it is no Python, or imports something else than torch and the standard library.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as failure:
        raise _mismatch(f"the source is no Python: {failure}") from failure
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for imported in names:
            if imported.partition(".")[0] not in IMPORTS:
                raise _mismatch(f"the source imports {imported}")
    module = ModuleType("exported")
    try:
        exec(compile(tree, "exported network", "exec"), vars(module))
        with torch.random.fork_rng(devices=[]):
            made = getattr(module, name)()
    except Exception as failure:
        raise _mismatch(f"the source fails: {type(failure).__name__}: {failure}") from failure
    assert isinstance(made, nn.Module)
    return made


def _mismatch(what: str) -> Mismatch:
    return Mismatch(
        f"the exported network is not the one that was asked for: {what}",
        "an export is run and compared before it is written",
        "export it as onnx or pt2, and report this network",
    )


def _shapes(args: Any, kwargs: Any) -> str:
    return ", ".join("x".join(map(str, value.shape)) for value in (*args, *kwargs.values()))
