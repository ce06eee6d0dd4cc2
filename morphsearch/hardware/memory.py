"""The state in which a long-lived process has its memory: kept, not given back between two passes.

glibc takes blocks above a threshold from the system, and gives back what lies free at the end of the heap once it is
twice as much. Every page of it is taken anew, and cleared, in the next pass: a ReLU of four MiB that takes 0.1 ms then
takes 1.7. Both thresholds grow with the largest block that was ever given back. So what a process has done before, and
the order in which networks are measured, decided whether a network paid for no page in a pass or for thousands (4000
to 13000 in a ``resnet20`` at batch 16).
"""

from __future__ import annotations

import torch

LARGEST = 31 * 2**20  # bytes; glibc's threshold grows no further than 32 MiB


def keep_memory() -> None:
    """Give one large block back, so that the thresholds are the highest from now on; other allocators ignore it."""
    torch.empty(LARGEST, dtype=torch.uint8)
