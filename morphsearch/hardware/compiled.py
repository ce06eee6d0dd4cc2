"""The backend ``compile``: PyTorch through ``torch.compile``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from morphsearch.errors import InputError
from morphsearch.hardware.eager import synchronise
from morphsearch.hardware.kinds import POINTWISE
from morphsearch.hardware.settings import Settings
from morphsearch.types import Observation

COMPILERS = ("g++", "clang++", "c++", "cl")


class Compiled:
    """PyTorch with its compiler. What it makes of a network is timed as a whole."""

    name = "compile"
    into_weights: frozenset[str] = frozenset()
    # Element-wise operations become one loop; convolutions stay calls of a library.
    into_pointwise: frozenset[str] = POINTWISE

    def check(self, settings: Settings) -> None:
        """The device must be there, and on the CPU a C++ compiler."""
        device = settings.require_device()
        if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
            raise InputError(
                "torch.compile finds no C++ compiler",
                f"on a CPU it compiles networks with {', '.join(COMPILERS[:2])} or the like",
                "install one (apt install g++), or use --backend eager",
            )

    def versions(self) -> Mapping[str, str]:
        """Nothing but torch's."""
        return {}

    def prepare(self, model: nn.Module, inputs: Sequence[Tensor], settings: Settings) -> Callable[[], Any]:
        """A forward pass of the compiled network; the first call, here, compiles it."""
        wait = synchronise(settings.require_device())
        torch._dynamo.reset()
        compiled = torch.compile(model, dynamic=False)

        def run() -> Any:
            with torch.inference_mode():
                outputs = compiled(*inputs)
            wait()
            return outputs

        try:
            run()
        except Exception as error:
            raise InputError(
                f"torch.compile fails on this network: {str(error).splitlines()[0] if str(error) else error!r}",
                "a network must compile before it can be timed",
                "use --backend eager for it",
            ) from error
        return run

    def observe(
        self, model: nn.Module, inputs: Sequence[Tensor], settings: Settings, repeats: int
    ) -> Sequence[Observation]:
        """Nothing: compiled code has no operations that could be told apart."""
        return []
