"""Every convolutional network of torchvision and timm, recorded, shrunk, resized and checked: one JSON line each.

    python benchmarks/zoo.py list                          what would run, smallest first
    python benchmarks/zoo.py run [PATTERN ...]             resumable: networks with a line are skipped
    python benchmarks/zoo.py run --again failed            networks that failed once more
    python benchmarks/zoo.py time [PATTERN ...]            the first step alone: time, memory, what is free
    python benchmarks/zoo.py widen                         large networks at 1.5 times their widths: `run` does not
    python benchmarks/zoo.py summary                       the table of docs/zoo.md, from the lines

A network counts as convolutional when at least four of its layers are convolutions with a kernel larger than one pixel,
and convolutions are at least a fifth of its layers with weights. Each runs in a process of its own with a time
limit. Seconds are processor time on one thread, so that two networks may be measured side by side. What is checked,
and how it is written, stands in docs/zoo.md.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import fnmatch
import gc
import json
import math
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import conv_flop_count, einsum_flop_jit, get_shape
from torch import Tensor, nn

from morphsearch.costs.flops import flops_of

RESULTS = Path(__file__).parent / "results" / "zoo.jsonl"
TIMES = RESULTS.with_name("zoo_times.jsonl")
WIDER = RESULTS.with_name("zoo_wider.jsonl")
PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
NETWORKS = Path(__file__).parent / "results" / "zoo_networks.json"
SIZES = (
    64,
    96,
    128,
    224,
    256,
    320,
)  # inputs tried for exactness, the smallest that the network takes; 224 for the time
HUGE = 450e6  # parameters from which on a network is widened in bfloat16
LARGE = 120e6  # parameters from which exactness is measured in single precision, by default
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def specs() -> list[str]:
    """Every model name of both libraries; which are convolutional is seen when they are built."""
    from morphsearch.models.sources import _package

    vision, timm = _package("torchvision", "models"), _package("timm")
    skip = ("quantized_", "raft_")  # scripted or quantised ones, and optical flow on pairs of images
    names = [f"torchvision:{n}" for n in vision.list_models() if not n.startswith(skip)]
    return names + [f"timm:{n}" for n in timm.list_models()]


def candidates() -> list[str]:
    """The convolutional ones, smallest first; counted once and kept in a file."""
    if not NETWORKS.exists():
        sizes = {}
        for spec in specs():
            model = build(spec, "meta")
            if is_convolutional(layers(model)):
                sizes[spec] = sum(p.numel() for p in model.parameters())
        NETWORKS.write_text(json.dumps(dict(sorted(sizes.items(), key=lambda item: item[1])), indent=0))
    return list(json.loads(NETWORKS.read_text()))


def build(spec: str, device: str = "cpu") -> nn.Module:
    from morphsearch.models.sources import timm_source, torchvision_source

    scheme, _, name = spec.partition(":")
    options: dict[str, Any] = {}
    if any(part in name for part in ("rcnn", "retinanet", "fcos")):
        options = {"min_size": 160, "max_size": 256}  # they scale every image to 800 otherwise
    if "rcnn" in name:  # a thousand boxes take minutes where the operators are in Python
        options |= {f"rpn_{when}_nms_top_n_{mode}": 64 for when in ("pre", "post") for mode in ("train", "test")}

    def made() -> nn.Module:
        with quick_draws():
            return torchvision_source(name, **options) if scheme == "torchvision" else timm_source(name)

    if device == "meta":
        try:
            with torch.device("meta"):
                return made()
        except NotImplementedError:
            pass  # its initialisation looks at values
    return made()


@contextlib.contextmanager
def quick_draws(block: int = 65_537) -> Iterator[None]:
    """Large tensors are filled with one random block, over and over (a prime number of values, so that no
    two channels are alike): a quarter of the time went into drawing."""

    def repeating(name: str) -> Any:
        original = getattr(Tensor, name)

        def fill(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if self.device.type == "meta" or self.numel() <= 2 * block or not self.is_contiguous():
                return original(self, *args, **kwargs)
            flat = self.detach().view(-1)
            first = original(flat[:block], *args, **kwargs)
            whole = flat.numel() // block * block
            flat[block:whole].view(-1, block).copy_(first.expand(whole // block - 1, block))
            flat[whole:].copy_(first[: flat.numel() - whole])
            return self

        return original, fill

    names = ("normal_", "uniform_", "erfinv_")
    originals = {}
    for name in names:
        originals[name], made = repeating(name)
        setattr(Tensor, name, made)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(Tensor, name, original)


def _sampled(x: Tensor, images: Tensor, boxes: Tensor, size: tuple[int, int], ratio: int, aligned: bool) -> Tensor:
    """Regions of `x` (`n x c x h x w`) as means of `ratio x ratio` samples, as the compiled operator takes them;
    its version in Python takes ten times as long. `boxes`: `k x 4`, in pixels of `x`; `images`: `k`, whose they are."""
    h, w = x.shape[-2:]
    extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=-math.inf if aligned else 1.0)
    steps = [(torch.arange(s * ratio, dtype=x.dtype) + 0.5) / (s * ratio) for s in size]
    ys, xs = (boxes[:, d, None] + extent[:, d, None] * along for d, along in ((1, steps[0]), (0, steps[1])))
    inside = ((ys >= -1) & (ys <= h))[:, :, None] & ((xs >= -1) & (xs <= w))[:, None, :]
    rows, columns = ys.shape[1], xs.shape[1]
    across, down = xs[:, None].expand(-1, rows, -1), ys[:, :, None].expand(-1, -1, columns)
    grid = torch.stack([across / max(1, w - 1), down / max(1, h - 1)], -1)
    found = x.new_zeros(len(boxes), x.shape[1], rows, columns)
    for image in range(len(x)):
        chosen = (images == image).nonzero()[:, 0]
        places = (grid[chosen] * 2 - 1).reshape(1, -1, columns, 2)
        values = F.grid_sample(x[image : image + 1], places, padding_mode="border", align_corners=True)
        found[chosen] = values.reshape(x.shape[1], -1, rows, columns).transpose(0, 1)
    return F.avg_pool2d(found * inside[:, None], ratio)


def declare_operators() -> None:
    """Detection's operators in Python, where torchvision's compiled ones do not fit the installed torch."""
    import torchvision

    if torchvision.extension._has_ops():
        return

    def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        overlaps = torchvision.ops.box_iou(boxes, boxes) > threshold
        kept: list[int] = []
        for index in scores.argsort(descending=True, stable=True).tolist():
            if not kept or not bool(overlaps[index, kept].any()):
                kept.append(index)
        return torch.tensor(kept, dtype=torch.int64)

    pooling = sys.modules["torchvision.ops.roi_align"]
    plain: Any = pooling._roi_align.__wrapped__ if hasattr(pooling._roi_align, "__wrapped__") else pooling._roi_align

    def pool(x: Tensor, rois: Tensor, scale: float, height: int, width: int, ratio: int, aligned: bool) -> Tensor:
        if ratio <= 0:  # as many samples as each region needs
            return plain(x, rois, scale, height, width, ratio, aligned)
        return _sampled(x, rois[:, 0].long(), rois[:, 1:] * scale - 0.5 * aligned, (height, width), ratio, aligned)

    class Pool(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, boxes: Tensor, *rest: Any) -> Tensor:
            ctx.save_for_backward(x, boxes)
            ctx.rest = rest
            with torch._C._AutoDispatchBelowAutograd():
                return torch.ops.torchvision.roi_align(x, boxes, *rest)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            x, boxes = ctx.saved_tensors
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                given = torch.autograd.grad(plain(x, boxes, *ctx.rest), x, grad)
            return *given, None, *(None for _ in ctx.rest)

    schema = "(Tensor input, Tensor rois, float scale, SymInt height, SymInt width, int ratio, bool aligned) -> Tensor"
    torch.library.define("torchvision::roi_align", schema)
    torch.library.impl("torchvision::roi_align", "CPU")(pool)
    torch.library.impl("torchvision::roi_align", "Autograd")(Pool.apply)
    torch.library.impl("torchvision::nms", "CPU")(nms)
    torchvision.ops.boxes._assert_has_ops = lambda: None
    pooling._assert_has_ops = lambda: None
    pooling._has_ops = lambda: True


def default_size(model: nn.Module) -> int | None:
    size = (getattr(model, "default_cfg", None) or {}).get("input_size")
    if type(model).__module__.startswith("torchvision.models.inception"):
        return 299
    return int(size[-1]) if size else None


def layers(model: nn.Module) -> Counter[str]:
    """Convolutions, those with a kernel, and linear layers."""
    count: Counter[str] = Counter()
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS) or (
            hasattr(module, "kernel_size") and isinstance(getattr(module, "weight", None), Tensor)
        ):
            count["convolutions"] += 1
            size = module.kernel_size
            count["kernels"] += max(size if isinstance(size, tuple) else (size,)) > 1
        elif isinstance(module, nn.Linear):
            count["linear"] += 1
    return count


def is_convolutional(count: Counter[str]) -> bool:
    return count["kernels"] >= 4 and count["convolutions"] >= (count["convolutions"] + count["linear"]) / 5


class Peak:
    """Peak resident memory, in MiB above what was there at the start."""

    def __enter__(self) -> Peak:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before would be used again, unseen
        self.base = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *_: Any) -> None:
        self.mib = max(0.0, _status("VmHWM") - self.base)


def _status(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


VIDEO = {"mc3_18": 112, "r2plus1d_18": 112, "r3d_18": 112, "s3d": 224, "mvit_v1_b": 224, "mvit_v2_s": 224}


def inputs(spec: str, size: int, dtype: torch.dtype = torch.float32) -> Any:
    name = spec.partition(":")[2]
    if name in VIDEO:
        return torch.rand(1, 3, 16, VIDEO[name], VIDEO[name], dtype=dtype)
    image = torch.rand(1, 3, size, size, dtype=dtype)
    if "rcnn" in spec or any(name in spec for name in ("retinanet", "fcos", "ssd")):
        return ([image[0]],)
    return image


def measure(spec: str, line: dict[str, Any], *, large: float | None = LARGE) -> None:
    """Fill the line of one network; what is `large` is proved in single precision and not widened, and with None the
    first step is all."""
    import morphsearch as ms
    from morphsearch.graph import record
    from morphsearch.graph.recording import OUTPUT, as_arguments
    from morphsearch.graph.tensors import tensors_in
    from morphsearch.loop.behaviour import behaviour
    from morphsearch.loop.verification import random_keep, randomise, relative_error, zeroed

    skeleton = build(spec, "meta")
    count = layers(skeleton)
    line["parameters"] = sum(p.numel() for p in skeleton.parameters())
    line["layers"] = dict(count)
    if not is_convolutional(count):
        line["status"] = "not convolutional"
        return
    wanted = default_size(skeleton)
    detector = isinstance(inputs(spec, 8), tuple)
    del skeleton
    base = _status("VmRSS")
    torch.manual_seed(0)
    model = build(spec).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    args, kwargs = as_arguments(inputs(spec, 224))
    # -- time and memory, single precision, 224 x 224 (else the size that the network is made for)
    line["phase"] = "forward"
    size = 224
    with torch.no_grad():
        try:
            model(*args, **kwargs)
            if wanted == 299:
                raise ValueError("made for 299 x 299")
        except Exception:
            size = wanted or 299
            args, kwargs = as_arguments(inputs(spec, size))
            model(*args, **kwargs)
        line["size"] = size
        with Peak() as forward:
            began = time.process_time()  # not before: making ready to see the peak takes longer than a small network
            model(*args, **kwargs)
            line["forward_s"] = time.process_time() - began
    x = inputs(spec, size)
    own = sum(p.numel() * p.element_size() for p in [*model.parameters(), *model.buffers()]) / 2**20
    line["phase"] = "record"
    for other in ("squeezenet1_1", "shufflenet_v2_x0_5"):  # imports, once: of recording, and of code that is rewritten
        record(build(f"torchvision:{other}"), torch.rand(1, 3, 64, 64))
    with Peak() as peak:
        began = time.process_time()
        graph = ms.record(model, x)
        line["record_s"] = time.process_time() - began
        line["phase"] = "halve"
        keep = {}
        for name in graph.free:
            group = graph.groups[name]
            kept = max(group.floor, group.width // 2 // group.multiple * group.multiple)
            keep[name] = (
                range(0, group.width) if kept >= group.width else np.linspace(0, group.width - 1, kept).astype(int)
            )
        began = time.process_time()
        halved = graph.shrink(keep)
        line["halve_s"] = time.process_time() - began
    line["memory"] = {
        "forward_mib": own + forward.mib,
        "morphsearch_mib": own + peak.mib,
        "ratio": (own + peak.mib) / (own + forward.mib),
    }
    before, after = conv_channels(model, graph), conv_channels(halved, graph)
    line["channels"] = {"all": before, "left": after, "removed": round(1 - after / max(1, before), 4)}
    inner = {name: group for name, group in graph.groups.items() if group.frozen != OUTPUT}
    total = sum(group.width for group in inner.values())
    line["groups"] = len(graph.groups)
    line["free_share"] = round(sum(g.width for g in inner.values() if g.frozen is None) / max(1, total), 4)
    reasons: Counter[str] = Counter()
    for group in inner.values():
        if group.frozen is not None:
            reasons[group.frozen] += group.width
    line["frozen"] = dict(reasons.most_common(12))
    line["mixes"] = sorted({mix for group in graph.groups.values() for mix in group.mixes})[:12]
    del halved, graph
    if large is None:
        line["status"] = "timed"
        return
    # -- exactness, double precision, at the smallest input that the network takes
    line["phase"] = "exactness"
    narrow_only = line["parameters"] > large
    dtype = torch.float32 if narrow_only else torch.float64
    model = model.to(dtype)
    randomise(model, torch.Generator().manual_seed(0))
    example = None
    for size in (*SIZES, wanted):
        if size is None or (size < 224 and detector) or size < line["size"] == 299:
            continue
        try:
            example = inputs(spec, size, dtype)
            call = as_arguments(example)
            with torch.no_grad():
                model(*call[0], **call[1])
            break
        except Exception:
            example = None
    if example is None:
        example = inputs(spec, line["size"], dtype)
    args, kwargs = as_arguments(example)
    graph = record(model, example)
    mixing = [name for name in graph.free if graph.groups[name].mixes]
    line["mixing_share"] = round(sum(graph.groups[n].width for n in mixing) / max(1, total), 4)
    rng = np.random.default_rng(0)
    keep = random_keep(graph, rng, skip=mixing)
    shrunk = graph.shrink(keep).eval()
    reference = zeroed(graph, keep).eval()
    with torch.no_grad():
        expected, found = (answer(network, args, kwargs) for network in (reference, shrunk))
        line["error"] = relative_error(expected, found)
        line["precision"] = str(dtype).removeprefix("torch.")
        line["finite"] = all(bool(t.isfinite().all()) for t in tensors_in(expected) if t.is_floating_point())
    del reference
    line["phase"] = "costs"
    widths = graph.widths | {name: len(kept) for name, kept in keep.items()}
    line["costs"] = {
        "seed": counted(graph, graph.widths, model, args, kwargs),
        "shrunk": counted(graph, widths, shrunk, args, kwargs),
    }
    del shrunk
    line["phase"] = "shrink all"
    keep = random_keep(graph, rng)
    shrunk = graph.shrink(keep).eval()
    with torch.no_grad():
        original, found = tensors_in(model(*args, **kwargs)), tensors_in(shrunk(*args, **kwargs))
        if not detector and [t.shape for t in original] != [t.shape for t in found]:
            raise AssertionError("the shrunk network's outputs have other shapes")
    line["phase"] = "behaviour"
    line["runs"] = behaviour(shrunk, model, args, kwargs) if not detector else behaviour_of_detector(shrunk, args)
    del shrunk
    for factor in (0.7, 1.5):
        line["phase"] = f"resize {factor}"
        if factor > 1 and narrow_only:
            continue
        widths = {}
        for name in graph.free:
            group = graph.groups[name]
            widths[name] = max(group.floor, int(group.width * factor) // group.multiple * group.multiple)
        with quick_draws():
            other = graph.resize(widths)
        with torch.no_grad():
            found = tensors_in(other.eval()(*args, **kwargs))
            if not detector and [t.shape for t in original] != [t.shape for t in found]:
                raise AssertionError("the resized network's outputs have other shapes")
        del other
    line["phase"] = "widen"
    widths = {
        n: int(graph.groups[n].width * 1.5) // graph.groups[n].multiple * graph.groups[n].multiple
        for n in graph.free
        if n not in mixing
    }
    if not narrow_only:
        wide = graph.resize({n: max(w, graph.groups[n].floor) for n, w in widths.items()}, weights="widen").eval()
        with torch.no_grad():
            line["widen_error"] = relative_error(answer(model, args, kwargs), answer(wide, args, kwargs))
    line.pop("phase")
    line["status"] = "ok"
    line["base_mib"] = base


def widened(spec: str, line: dict[str, Any]) -> None:
    """Fill the line of a large network: resized to 1.5 times every width, and widened so, in single precision. Over
    :data:`HUGE` parameters it is resized alone, in bfloat16, for what memory there is."""
    from morphsearch.graph import record
    from morphsearch.graph.recording import as_arguments
    from morphsearch.graph.tensors import tensors_in
    from morphsearch.loop.verification import randomise, relative_error

    skeleton = build(spec, "meta")
    line["parameters"], default = sum(p.numel() for p in skeleton.parameters()), default_size(skeleton)
    del skeleton
    huge = line["parameters"] > HUGE
    dtype = torch.bfloat16 if huge else torch.float32
    with quick_draws():
        model = build(spec).eval().to(dtype)
    randomise(model, torch.Generator().manual_seed(0))
    for size in (*SIZES, default):
        try:
            args, kwargs = as_arguments(example := inputs(spec, size or 224, dtype))
            with torch.no_grad():
                original = tensors_in(model(*args, **kwargs))
            break
        except Exception:
            continue
    line["phase"] = "record"
    graph = record(model, example)
    for weights in ("fresh",) if huge else ("fresh", "widen"):
        line["phase"] = weights
        widths = {}
        for name in graph.free:
            group = graph.groups[name]
            if weights == "fresh" or not group.mixes:
                widths[name] = max(group.floor, int(group.width * 1.5) // group.multiple * group.multiple)
        with quick_draws(), torch.no_grad():
            wide = graph.resize(widths, weights=weights).eval()
            found = tensors_in(wide(*args, **kwargs))
            if [t.shape for t in original] != [t.shape for t in found]:
                raise AssertionError("the outputs of the wider network have other shapes")
            if weights == "widen":
                line["widen_error"] = relative_error(original, found)
        line["wider_parameters"] = sum(p.numel() for p in wide.parameters())
        del wide
    line.pop("phase")
    line["precision"], line["status"] = str(dtype).removeprefix("torch."), "widened"


def attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """The two matrix products of an attention, which fvcore does not count."""
    query, key, value = (list(one.type().sizes()) for one in inputs[:3])
    rows = math.prod(query[:-1])
    return int(rows * key[-2] * (query[-1] + value[-1]))


def einsum_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Of an einsum of two tensors: the product of all its sizes, which fvcore reads from a text of four digits."""
    terms = str(inputs[0].toIValue()).replace(" ", "").partition("->")[0].split(",")
    sizes = [list(one.type().sizes()) for one in inputs[1].node().inputs()]
    if len(terms) != 2 or any(len(term) != len(shape) for term, shape in zip(terms, sizes, strict=True)):
        return int(einsum_flop_jit(inputs, outputs))
    pairs = (pair for term, shape in zip(terms, sizes, strict=True) for pair in zip(term, shape, strict=True))
    return math.prod(dict(pairs).values())


def same_padding_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Of a convolution with ``padding="same"``, which is an operation of its own that fvcore does not know."""
    image, weight, output = (get_shape(value) for value in (*inputs[:2], outputs[0]))
    return int(conv_flop_count(image, weight, output))


HANDLES = {
    "aten::scaled_dot_product_attention": attention_flops,
    "aten::einsum": einsum_flops,
    "aten::_convolution_mode": same_padding_flops,
}


def counted(graph: Any, widths: dict[str, int], model: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """Parameters and FLOPs that the graph counts, less those of `numel` and fvcore; and the operations that differ."""
    import morphsearch as ms

    parameters = sum(p.numel() for p in model.parameters())
    found: dict[str, Any] = {"params": ms.cost(graph, "params", widths).total - parameters}
    ours = ms.cost(graph, "flops", widths)
    try:
        if kwargs or not all(isinstance(arg, Tensor) for arg in args):
            raise TypeError("it takes tensors alone")
        analysis = FlopCountAnalysis(model, tuple(args)).set_op_handle(**HANDLES)
        analysis = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        found["flops"] = ours.total - analysis.total()
        theirs = analysis.by_module()
    except Exception as error:
        return found | {"fvcore": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    if found["flops"]:
        inner = {name.rpartition(".")[0] for name in ours.per_layer if name}
        apart = {n for n, v in ours.per_layer.items() if n not in inner and abs(v - theirs.get(n, 0)) > 0.5}
        apart |= inner & ours.per_layer.keys() if not apart else set()
        kinds = Counter(f"{op.kind} in {op.module}" for op in graph.operations if op.module in apart and flops_of(op))
        found["operations"] = [name for name, _ in kinds.most_common(6)]
    return found


def answer(model: nn.Module, args: Any, kwargs: Any) -> Any:
    """What the network computes; of a detector what its heads give, since boxes of equal score come in any order."""
    heads: list[Any] = []
    parts = dict(model.named_modules())
    hooks = [
        parts[name].register_forward_hook(lambda _module, _args, output: heads.append(output))
        for name in ("head", "rpn.head")
        if name in parts and isinstance(args[0], list)
    ]
    torch.manual_seed(1)
    output = model(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    return heads or output


def behaviour_of_detector(model: nn.Module, args: Any) -> dict[str, str]:
    """A detector trains on images and boxes; on two, since a batch norm refuses to train on one pixel of one image."""
    results = {}
    try:
        target = [
            {
                "boxes": torch.tensor([[10.0, 10.0, 100.0, 100.0]], dtype=args[0][0].dtype),
                "labels": torch.tensor([1]),
                "masks": torch.ones(1, *args[0][0].shape[1:], dtype=torch.uint8),
                "keypoints": torch.ones(1, 17, 3),
            }
        ]
        model.train()
        losses = model(list(args[0]) * 2, target * 2)
        sum(losses.values()).backward()
        results["train"] = "ok"
    except Exception as error:
        results["train"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    model.load_state_dict(model.state_dict())
    copy.deepcopy(model)
    return results | {"state_dict": "ok", "deepcopy": "ok"}


def conv_channels(model: nn.Module, graph: Any) -> int:
    """Output channels of all convolutions (rows of their weights), those that make the network's output left out."""
    from morphsearch.graph.recording import OUTPUT

    outputs = {
        binding.tensor
        for binding in graph.bindings
        if binding.role == "rows"
        and (binding.units >= 0).all()
        and all(list(graph.groups.values())[g].frozen == OUTPUT for g in set(graph.unit_group[binding.units].tolist()))
    }
    names = {
        op.parameters["weight"]
        for op in graph.operations
        if op.kind in ("conv", "conv_transpose") and "weight" in op.parameters
    }
    total = 0
    for name, parameter in model.named_parameters():
        if name in names and name not in outputs and parameter.dim() > 2:
            total += parameter.shape[0]
    return total


def one(spec: str, pipe: Connection, threads: int, limit: float, large: float | None, wider: bool) -> None:
    """Runs in the child: sends the line, or what went wrong."""
    torch.set_num_threads(threads)
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
    signal.signal(signal.SIGXCPU, _too_long)
    line: dict[str, Any] = {"network": spec}
    began = time.process_time()
    try:
        if wider:
            widened(spec, line)
        else:
            measure(spec, line, large=large)
    except BaseException as error:
        line["status"] = "failed"
        line["failure"] = f"{type(error).__name__}: {error}"[:600]
        line["where"] = _where(error)
    line["seconds"] = round(time.process_time() - began, 2)
    line["child_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send(line)


def _where(error: BaseException) -> list[str]:
    """The last places that an error came through, with no path of this machine."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return [f"{Path(one.filename).name}:{one.lineno} in {one.name}" for one in frames]


def _too_long(*_: Any) -> None:
    raise TimeoutError("over the limit of processor time")


def run(
    names: list[str],
    *,
    processes: int,
    threads: int,
    limit: float,
    results: Path,
    large: float | None = LARGE,
    wider: bool = False,
) -> None:
    """Fork a child for each network, `processes` at a time; the libraries are imported once, here."""
    import morphsearch.graph
    import morphsearch.loop.verification  # noqa: F401
    from morphsearch.models.sources import _package

    _package("torchvision", "models"), _package("timm")
    declare_operators()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    queue, running = list(names), {}
    results.parent.mkdir(parents=True, exist_ok=True)
    while queue or running:
        while queue and len(running) < processes:
            spec = queue.pop(0)
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=one, args=(spec, sender, threads, limit, large, wider))
            process.start()
            sender.close()
            running[receiver] = (spec, process, time.monotonic())
        for receiver in wait(list(running), timeout=1.0):
            spec, process, began = running.pop(receiver)
            try:
                line = receiver.recv()
            except EOFError:
                process.join()
                line = {"network": spec, "status": "failed", "failure": f"the process died (exit {process.exitcode})"}
            process.join()
            _write(results, line, len(queue))
        for receiver, (spec, process, began) in list(running.items()):
            if time.monotonic() - began > 6 * limit:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                running.pop(receiver)
                _write(
                    results,
                    {"network": spec, "status": "failed", "failure": f"over the limit of {limit:g} s"},
                    len(queue),
                )


def _write(results: Path, line: dict[str, Any], left: int) -> None:
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")
    error = f"error {line['error']:.1e} " if "error" in line else ""
    shown = line.get("failure", "") or (
        f"{error}free {line['free_share']:.0%} removed {line['channels']['removed']:.0%} "
        f"record {line['record_s']:.2f} halve {line['halve_s']:.2f} memory x{line['memory']['ratio']:.1f}"
        if line["status"] in ("ok", "timed")
        else f"error {line['widen_error']:.1e}"
        if "widen_error" in line
        else ""
    )
    print(
        f"{left:5d} left  {line['network']:44s} {line['status']:8s} {line.get('seconds', 0):6.1f} s  {shown}"[:220],
        flush=True,
    )


def lines(results: Path) -> dict[str, dict[str, Any]]:
    """The last line of each network."""
    if not results.exists():
        return {}
    return {line["network"]: line for line in map(json.loads, results.read_text().splitlines())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["list", "run", "time", "widen", "summary"])
    parser.add_argument("patterns", nargs="*", help="names or patterns, torchvision:res*; all without")
    parser.add_argument("--again", choices=["failed", "all"], help="run networks that have a line already")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=180, help="seconds of processor time for one network")
    parser.add_argument(
        "--large",
        type=float,
        default=LARGE,
        help="parameters from which exactness is measured in single precision and nothing is widened (`inf` for none: "
        "that takes some ten times the memory of the parameters)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        help="default: zoo.jsonl, of `time` zoo_times.jsonl, of `widen` zoo_wider.jsonl, in results",
    )
    args = parser.parse_intermixed_args()
    results = args.results or {"time": TIMES, "widen": WIDER}.get(args.command, RESULTS)
    known = lines(results)
    if args.command == "summary":
        from zoo_summary import summary

        proved = [line for line in known.values() if line["status"] != "not convolutional"]
        text = summary(proved, [line for line in lines(TIMES).values() if line["status"] == "timed"], len(candidates()))
        page = PAGE.read_text()
        start, end = page.index("<!-- zoo -->") + len("<!-- zoo -->"), page.index("<!-- /zoo -->")
        PAGE.write_text(f"{page[:start]}\n{text}{page[end:]}")
        print(text)
        return
    names = [n for n in candidates() if not args.patterns or any(fnmatch.fnmatch(n, p) for p in args.patterns)]
    if args.patterns:  # in the order asked for
        names.sort(key=lambda n: next(i for i, p in enumerate(args.patterns) if fnmatch.fnmatch(n, p)))
    if args.again != "all":
        done = {n for n, line in known.items() if args.again != "failed" or line["status"] != "failed"}
        names = [n for n in names if n not in done]
    if args.command == "list":
        print("\n".join(names))
        return
    if args.command == "widen":  # those that `run` does not
        proved = lines(RESULTS)
        names = [n for n in names if n in proved and "widen_error" not in proved[n]]
        names = [n for n in names if proved[n]["parameters"] > args.large]
        names.sort(key=lambda n: proved[n]["parameters"])
    large, wider = args.large if args.command == "run" else None, args.command == "widen"
    options = {"processes": args.processes, "threads": args.threads, "limit": args.limit}
    run(names, **options, results=results, large=large, wider=wider)


if __name__ == "__main__":
    sys.exit(main())
