"""Whether a unit is silent: with its parameters at zero, all that it gives is zero."""

from __future__ import annotations

from morphsearch.graph.labels import Labels
from morphsearch.graph.tape import RawOperation, Tape

_DENSE = frozenset("conv conv_transpose linear".split())
_NORMS = frozenset("batch_norm layer_norm group_norm instance_norm".split())
_SUMS = frozenset("add sub".split())
_JOINS = frozenset("cat stack".split())
_SCALES = frozenset("mul div".split())
# Of zeros they make zeros, whatever else they are given.
ZERO_TO_ZERO = frozenset(
    "relu silu gelu hardswish leaky_relu elu tanh _prelu_kernel prelu abs neg sqrt hardtanh"
    " clone contiguous detach alias _to_copy dropout native_dropout positive"
    " view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten unflatten permute transpose t"
    " split split_with_sizes chunk slice select narrow unbind expand flip roll pixel_shuffle pixel_unshuffle"
    " channel_shuffle native_channel_shuffle constant_pad_nd"
    " max_pool2d_with_indices max_pool2d avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d"
    " upsample_nearest2d upsample_bilinear2d upsample_bicubic2d reflection_pad2d replication_pad2d mean sum"
    " fake_quantize_per_tensor_affine_cachemask _fake_quantize_per_tensor_affine_cachemask_tensor_qparams"
    " _fake_quantize_learnable_per_tensor_affine fake_quantize_per_channel_affine_cachemask"
    " _fused_moving_avg_obs_fq_helper".split()
)
_READING = ZERO_TO_ZERO | _SUMS | _JOINS | _SCALES


def silent(tape: Tape, labels: Labels) -> bool:
    """The units of an activation that was just recorded give zeros where their parameters are zero; False in doubt."""
    known: dict[int, bool] = {}
    pending = [labels]
    while pending:
        last = pending[-1]
        operation = _maker(tape, last)
        place = last.producer
        if operation is None or place in known:
            pending.pop()
            continue
        sources = [one for one in operation.inputs if not one.blank] if operation.kind in _READING else []
        asked = [one for one in sources if one.producer not in known and _maker(tape, one) is not None]
        if asked:
            pending += asked
            continue
        pending.pop()
        known[place] = _gives_zeros(tape, operation, [known.get(one.producer, False) for one in sources])
    return known.get(labels.producer, False)


def _maker(tape: Tape, labels: Labels) -> RawOperation | None:
    return tape.operations[labels.producer] if 0 <= labels.producer < len(tape.operations) else None


def _gives_zeros(tape: Tape, operation: RawOperation, sources: list[bool]) -> bool:
    kind, names = operation.kind, set(operation.parameters.values())
    if kind in _DENSE or kind in _NORMS:
        fixed = names & (tape.buffers | tape.lifted.keys())
        return "weight" in operation.parameters and not fixed - _statistics(operation)
    numbers = operation.attrs.get("numbers", ())
    if kind in _SUMS:
        # Data that is added (the image, a buffer) is there whatever becomes of the units.
        data = any(one.blank for one in operation.inputs) or bool(names & (tape.buffers | tape.lifted.keys()))
        return bool(sources) and all(sources) and not any(numbers) and not data
    if kind in _SCALES:
        return any(sources)
    return kind in ZERO_TO_ZERO | _JOINS and bool(sources) and all(sources)


def _statistics(operation: RawOperation) -> set[str]:
    """Running mean and variance: what they make of zeros is multiplied by a scale of zero."""
    return {name for role, name in operation.parameters.items() if role.startswith("running_")}
