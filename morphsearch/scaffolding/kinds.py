"""The kinds of plugin that can be begun with a template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PluginKind:
    """What a template makes.

    Attributes:
        registry: the kind among :data:`morphsearch.plugins.KINDS`. suffix: of the class that it defines.
        file: the module with what the hook brings. summary: of the record, one line.
        example: a command line that uses it; ``{name}`` is the name that it is registered by.
    """

    registry: str
    suffix: str
    file: str
    summary: str
    example: str


KINDS: Mapping[str, PluginKind] = {
    "cost-model": PluginKind(
        "cost_models", "Cost", "cost", "Bytes moved for one image", "morphsearch inspect resnet20 --costs flops,{name}"
    ),
    "strategy": PluginKind(
        "strategies",
        "Strategy",
        "strategy",
        "Units with small filters leave",
        "morphsearch search digits_net --strategy {name} --budget flops=50% --epochs 2",
    ),
    "operation": PluginKind(
        "operations", "Rule", "rule", "How channels flow through a layer", "morphsearch plugins operations"
    ),
    "model": PluginKind("models", "Net", "network", "A small network for images", "morphsearch inspect {name}"),
    "data": PluginKind(
        "data",
        "Data",
        "source",
        "Stripes, across or down",
        "morphsearch search digits_net --data {name} --budget flops=50% --epochs 2",
    ),
    "exporter": PluginKind(
        "exporters", "Exporter", "exporter", "Widths as a table", "morphsearch export digits_net --format {name}"
    ),
    "executor": PluginKind(
        "executors",
        "Executor",
        "executor",
        "Two retrainings at a time",
        "morphsearch retrain runs/a --executor {name}",
    ),
    "latency-backend": PluginKind(
        "latency_backends",
        "Backend",
        "backend",
        "PyTorch, channels innermost in memory",
        "morphsearch profile digits_net --backend {name}",
    ),
    "command": PluginKind(
        "commands", "Command", "command", "Print the widths of a network", "morphsearch {name} digits_net"
    ),
}
"""By the name that ``morphsearch new-plugin --kind`` takes."""
