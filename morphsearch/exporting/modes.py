"""Forward code for evaluation and for training, made one."""

from __future__ import annotations

import difflib

from morphsearch.exporting.literals import FLAG, FLAGS


def modes(evaluation: list[str], training: list[str]) -> list[str]:
    """Lines that do the one in evaluation and the other in training."""
    if evaluation == training:
        return evaluation
    one, other = _blocks(evaluation), _blocks(training)
    # Booleans that are the mode are no difference.
    first, second = ([FLAGS.sub(FLAG, block) for block in blocks] for blocks in (one, other))
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    lines: list[str] = []
    for kind, i, j, k, m in matcher.get_opcodes():
        only, also = _flat(one[i:j]), _flat(other[k:m])
        if kind == "equal":
            lines += [_by_mode(line, twin) or line for line, twin in zip(only, also, strict=True)]
        elif also and only and also[-1].startswith("return "):
            lines += ["if self.training:", *_indented(also), *only]
        elif also:
            lines += ["if self.training:", *_indented(also), *(["else:", *_indented(only)] if only else [])]
        else:
            lines += ["if not self.training:", *_indented(only)]
    return lines


def _blocks(lines: list[str]) -> list[str]:
    """Statements, each with the lines that are indented below it."""
    blocks: list[str] = []
    for line in lines:
        if line.startswith(" "):
            blocks[-1] += f"\n{line}"
        else:
            blocks.append(line)
    return blocks


def _flat(blocks: list[str]) -> list[str]:
    return [line for block in blocks for line in block.split("\n")]


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _by_mode(evaluation: str, training: str) -> str | None:
    """One line for both, where they differ in booleans that are the mode."""
    if evaluation == training:
        return evaluation
    if FLAGS.sub(FLAG, evaluation) != FLAGS.sub(FLAG, training):
        return None
    parts, start = [], 0
    for one, other in zip(FLAGS.finditer(evaluation), FLAGS.finditer(training), strict=True):
        parts.append(evaluation[start : one.start()])
        start = one.end()
        same = one[1] == other[1]
        parts.append(one[0] if same else "self.training" if other[1] == "True" else "not self.training")
    return "".join([*parts, evaluation[start:]])
