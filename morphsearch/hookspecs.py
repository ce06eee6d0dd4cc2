"""Every hook of morphsearch, each with a complete plugin that works. Imports types only, so that it costs nothing.

A plugin is a module with functions of these names, marked with ``@morphsearch.hookimpl``, and an entry point of the
group ``morphsearch`` that names the module. The hooks that return records are called once, when the first name of their
kind is looked up; the factories in the records only when a name is used, so import torch inside them. Events are called
as they happen; an implementation leaves out the arguments that it does not need.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from morphsearch.types import (
        CommandRecord,
        CostModelRecord,
        DataRecord,
        ExecutorRecord,
        ExporterRecord,
        LatencyBackendRecord,
        ModelRecord,
        OperationRecord,
        StrategyRecord,
    )

hookspec = pluggy.HookspecMarker("morphsearch")
hookimpl = pluggy.HookimplMarker("morphsearch")


@hookspec
def morphsearch_cost_models() -> Iterable[CostModelRecord]:
    """What a network costs, as a function of its widths.

    Called when a cost is first named, as in ``--budget weight-bytes=50%``. A factory takes nothing and returns a
    :class:`~morphsearch.types.CostModel`; :class:`morphsearch.costs.LayerwiseCost` does all but the price of one layer.

    Example::

        import morphsearch
        from morphsearch.types import CostModelRecord


        def weight_bytes():
            from morphsearch.costs import LayerwiseCost, weights_of

            class WeightBytes(LayerwiseCost):
                name, unit, whole = "weight-bytes", "bytes", True

                def price(self, op, graph):
                    return 2 * weights_of(op)

            return WeightBytes()


        @morphsearch.hookimpl
        def morphsearch_cost_models():
            return [CostModelRecord("weight-bytes", "Bytes of all filters in 16 bits", weight_bytes)]
    """
    raise NotImplementedError


@hookspec
def morphsearch_strategies() -> Iterable[StrategyRecord]:
    """Which units leave: a score for every unit, and what is added to the training to make the scores mean something.

    Called when a strategy is first named, as in ``--strategy filter-norm``. A factory takes the options of the strategy
    and returns a :class:`~morphsearch.strategies.base.Strategy`.

    Example::

        import morphsearch
        from morphsearch.types import StrategyRecord


        def filter_norm(power=2.0):
            import torch
            from morphsearch.strategies.base import Strategy

            class FilterNorm(Strategy):
                name = "filter-norm"

                def attach(self, model, graph):
                    self.parameters, self.graph = dict(model.named_parameters()), graph

                def scores(self):
                    scores = torch.zeros(self.graph.num_units)
                    for binding in self.graph.bindings:
                        if binding.role == "rows":
                            weight = self.parameters[binding.tensor].detach().movedim(binding.dim, 0)
                            units = torch.as_tensor(binding.units)
                            norms = weight.flatten(1).norm(power, dim=1)
                            scores.index_add_(0, units[units >= 0], norms[units >= 0])
                    return scores

            return FilterNorm()


        @morphsearch.hookimpl
        def morphsearch_strategies():
            return [StrategyRecord("filter-norm", "Units with small filters leave", filter_norm)]
    """
    raise NotImplementedError


@hookspec
def morphsearch_operations() -> Iterable[OperationRecord]:
    """How channels flow through an operation, torch function or module type that morphsearch does not know.

    Called when a network is first recorded. A factory takes nothing and returns a callable with an attribute
    `handles`: a tuple of ATen names, torch functions or module types. It is given the call and says what happens to the
    channels. What no rule knows is frozen, with a reason that names the operation to write a rule for.

    Example::

        import morphsearch
        from morphsearch.types import OperationRecord


        class RankRule:
            # The k-th smallest value along the height or width of each channel.
            handles = ("aten::kthvalue",)

            def __call__(self, call):
                call.per_channel()


        @morphsearch.hookimpl
        def morphsearch_operations():
            return [OperationRecord("rank", "Values by their rank within each channel", RankRule)]
    """
    raise NotImplementedError


@hookspec
def morphsearch_models() -> Iterable[ModelRecord]:
    """Seeds by name, or with ``source=True`` a scheme that builds what a library has by name.

    Called when a seed is named, as in ``morphsearch search tiny_cnn?width=16``. A factory takes the arguments of the
    spec and returns an ``nn.Module``; that of a scheme (``mylab:NAME``) takes the name first. `num_classes` is
    filled in from the data where the factory has it.

    Example::

        import morphsearch
        from morphsearch.types import ModelRecord


        def tiny_cnn(num_classes=10, width=8):
            from torch import nn

            def block(channels, filters):
                return [nn.Conv2d(channels, filters, 3, 2, 1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]

            pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            return nn.Sequential(*block(3, width), *block(width, 2 * width), *pool, nn.Linear(2 * width, num_classes))


        @morphsearch.hookimpl
        def morphsearch_models():
            return [ModelRecord("tiny_cnn", "Two convolutions for small images", tiny_cnn, input_shape=(3, 32, 32))]
    """
    raise NotImplementedError


@hookspec
def morphsearch_data() -> Iterable[DataRecord]:
    """Data sets by name, as in ``--data NAME`` or ``--data NAME:ARGUMENT``.

    Called when data is named. A factory takes what follows the colon (or None) and the
    :class:`~morphsearch.data.DataOptions`, and returns :class:`~morphsearch.data.DataSplits`;
    :func:`morphsearch.data.as_splits` makes them from pairs of tensors, torch data sets or loaders, and carves out a
    validation part where there is none.

    Example::

        import morphsearch
        from morphsearch.types import DataRecord


        def stripes(argument, options):
            import torch
            from morphsearch.data import as_splits

            generator = torch.Generator().manual_seed(0)
            labels = torch.arange(int(argument or 200)) % 2
            images = 0.1 * torch.randn(len(labels), 1, 8, 8, generator=generator)
            images[labels == 0, :, ::2, :] += 1
            images[labels == 1, :, :, ::2] += 1
            return as_splits((images, labels), classes=["horizontal", "vertical"], options=options)


        @morphsearch.hookimpl
        def morphsearch_data():
            return [DataRecord("stripes", "stripes:COUNT, noisy stripes in two directions", stripes)]
    """
    raise NotImplementedError


@hookspec
def morphsearch_exporters() -> Iterable[ExporterRecord]:
    r"""File formats that an architecture can be written in.

    Called when a format is named, as in ``--format csv``. A factory takes nothing and returns an
    :class:`~morphsearch.types.Exporter`. The architecture that it gets can ``build()`` its network.

    Example::

        import morphsearch
        from morphsearch.types import ExporterRecord


        class CsvExporter:
            suffix = ".csv"

            def export(self, architecture, destination, *, weights=None, allow_code=False):
                from morphsearch.files import write_text

                lines = [f"{group},{width}" for group, width in architecture.widths.items()]
                write_text(destination, "\n".join(["group,width", *lines, ""]))


        @morphsearch.hookimpl
        def morphsearch_exporters():
            return [ExporterRecord("csv", "The width of every group, for a spreadsheet", CsvExporter)]
    """
    raise NotImplementedError


@hookspec
def morphsearch_executors() -> Iterable[ExecutorRecord]:
    """Where independent retrainings run: one after another here, several at once, on a cluster.

    Called when an executor is named. A factory takes nothing and returns an :class:`~morphsearch.types.Executor`.

    Example::

        import morphsearch
        from morphsearch.types import ExecutorRecord


        class ThreadExecutor:
            def run(self, tasks):
                from concurrent.futures import ThreadPoolExecutor, as_completed

                with ThreadPoolExecutor(max_workers=2) as pool:
                    index_of = {pool.submit(task): index for index, task in enumerate(tasks)}
                    for future in as_completed(index_of):
                        yield index_of[future], future.result()


        @morphsearch.hookimpl
        def morphsearch_executors():
            return [ExecutorRecord("threads", "Two tasks at a time, in threads", ThreadExecutor)]
    """
    raise NotImplementedError


@hookspec
def morphsearch_latency_backends() -> Iterable[LatencyBackendRecord]:
    """What runs networks where they will be used, so that ``morphsearch profile`` can time it.

    Called when a backend is named, as in ``--backend scripted``. A factory takes nothing and returns a
    :class:`~morphsearch.types.LatencyBackend`. One that cannot time single operations returns none from ``observe``;
    its predictor is then fitted to whole networks alone, and is coarser.

    Example::

        import morphsearch
        from morphsearch.types import LatencyBackendRecord


        class ChannelsLast:
            # PyTorch with the channels innermost in memory.
            name = "channels-last"
            into_weights = into_pointwise = frozenset()

            def check(self, settings):
                settings.require_device()

            def versions(self):
                return {}

            def prepare(self, model, inputs, settings):
                import torch

                model = model.to(memory_format=torch.channels_last)
                inputs = [x.to(memory_format=torch.channels_last) for x in inputs]

                def run():
                    with torch.inference_mode():
                        return model(*inputs)

                return run

            def observe(self, model, inputs, settings, repeats):
                return []


        @morphsearch.hookimpl
        def morphsearch_latency_backends():
            return [LatencyBackendRecord("channels-last", "PyTorch, channels innermost in memory", ChannelsLast)]
    """
    raise NotImplementedError


@hookspec
def morphsearch_commands() -> Iterable[CommandRecord]:
    """Commands added to the ``morphsearch`` command line; they show in its help.

    Called when the command line starts, so keep the module that implements it light. A factory takes nothing and
    returns a ``click.Command``.

    Example::

        import morphsearch
        from morphsearch.types import CommandRecord


        def groups():
            import click

            @click.command(help="Print the width of every group of a seed.")
            @click.argument("seed")
            def command(seed):
                import torch
                from morphsearch.models import build_seed

                built = build_seed(seed)
                graph = morphsearch.record(built.model, torch.zeros(1, *built.input_shape))
                for name, width in graph.widths.items():
                    click.echo(f"{name} {width}")

            return command


        @morphsearch.hookimpl
        def morphsearch_commands():
            return [CommandRecord("groups", "Print the width of every group of a seed", groups)]
    """
    raise NotImplementedError


@hookspec
def morphsearch_iteration_end(search: Any, architecture: Any) -> None:
    """An iteration (a morph) has ended; where there is a run directory, its files are on the disk.

    Args:
        search: the :class:`~morphsearch.Search`; ``search.run`` is its run directory, or None.
        architecture: the :class:`~morphsearch.Architecture` that was found; its name is the iteration's.

    Example::

        import morphsearch


        @morphsearch.hookimpl
        def morphsearch_iteration_end(search, architecture):
            if search.run is not None:
                with open(search.run.path / "widths.log", "a") as log:
                    print(architecture.name, sum(architecture.widths.values()), file=log)
    """


@hookspec
def morphsearch_search_end(result: Any) -> None:
    r"""A search has ended with all its iterations.

    Args:
        result: the :class:`~morphsearch.SearchResult`; ``result.run_dir`` is None where nothing was saved.

    Example::

        import morphsearch


        @morphsearch.hookimpl
        def morphsearch_search_end(result):
            if result.run_dir is not None:
                (result.run_dir / "DONE").write_text(f"{len(result.architectures)} architectures\n")
    """
