"""Accuracy against cost: what was found beside its baselines."""

from __future__ import annotations

from typing import Any

from morphsearch.report.numbers import exact, percent, short
from morphsearch.report.page.markup import Markup, table
from morphsearch.report.page.plots import COLOURS, GREY, SMALL, Drawn, layout, text
from morphsearch.report.records import Front, Point

KINDS = {
    "found": ("found", COLOURS[0], "circle"),
    "uniform": ("uniform scaling", COLOURS[1], "square"),
    "random": ("random widths", COLOURS[2], "diamond"),
    "baseline": ("baseline", COLOURS[1], "square"),
    "seed": ("seed", GREY, "star"),
    "distilled": ("with a teacher", COLOURS[3], "x"),
}
"""What is called what, and drawn how: by its shape too, for who does not tell the colours apart."""

PLANE = 380
"""Height of a plane in pixels."""

MOST_PLANES = 2


def front(name: str, shown: Front) -> Drawn | None:
    """Accuracy against each cost, with the line of those that no other beats; None for fewer than two."""
    metrics = [metric for metric in shown.metrics if any(metric in point.costs for point in shown.points)][:MOST_PLANES]
    if not metrics or len(shown.points) < 2:
        return None
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=len(metrics), cols=1, vertical_spacing=0.2 / len(metrics))
    told = False  # in the legend, what the line is
    for place, metric in enumerate(metrics, 1):
        best = shown.best(metric)
        for trace in _traces(shown, metric, first=place == 1):
            figure.add_trace(trace, row=place, col=1)
        if len(best) > 1:
            figure.add_scatter(
                x=[point.costs[metric] for point in best],
                y=[point.accuracy for point in best],
                mode="lines",
                name="not beaten",
                line={"color": GREY, "dash": "dot", "width": 1, "shape": "hv"},
                hoverinfo="skip",
                showlegend=not told,
                row=place,
                col=1,
            )
            told = True
        for limit in dict.fromkeys(shown.limits.get(metric, ())):
            figure.add_vline(
                x=limit,
                line={"color": GREY, "width": 1, "dash": "dash"},
                annotation={"text": "budget", "font": SMALL},
                row=place,
                col=1,
            )
        figure.update_xaxes(
            title={"text": text(shown.metrics[metric]), "standoff": 6},
            tickformat=".3~s",
            range=_range(shown, metric),
            row=place,
            col=1,
        )
        figure.update_yaxes(title={"text": "accuracy"}, tickformat=".3~%", row=place, col=1)
    figure.update_layout(layout(60 + PLANE * len(metrics)))
    figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "yref": "paper", "bgcolor": "rgba(0,0,0,0)"}
    )
    return Drawn(f"Accuracy against cost, {name}", figure.to_dict(), _ranking(shown, metrics), _points(shown))


def _range(shown: Front, metric: str) -> list[float]:
    """Of a cost, with room for the labels on the right."""
    values = [point.costs[metric] for point in shown.points if metric in point.costs]
    values += shown.limits.get(metric, [])
    least, most = min(values), max(values)
    room = most - least or abs(most) or 1.0
    return [least - 0.06 * room, most + 0.16 * room]


def _family(point: Point) -> str:
    """A baseline by what it is."""
    word = point.label.rpartition("/")[2].split("-")[0]
    return word if point.kind == "baseline" and word in KINDS else point.kind if point.kind in KINDS else "baseline"


def _traces(shown: Front, metric: str, *, first: bool) -> list[Any]:
    from plotly import graph_objects as go

    families: dict[str, list[Point]] = {}
    for point in shown.points:
        if metric in point.costs:
            families.setdefault(_family(point), []).append(point)
    traces = []
    for family, points in families.items():
        label, colour, symbol = KINDS[family]
        traces.append(
            go.Scatter(
                x=[point.costs[metric] for point in points],
                y=[point.accuracy for point in points],
                error_y={
                    "type": "data",
                    "array": [point.spread or 0 for point in points],
                    "color": colour,
                    "thickness": 1,
                    "visible": any(point.spread for point in points),
                },
                name=label,
                legendgroup=label,
                showlegend=first,
                mode="markers+text",
                marker={"symbol": symbol, "size": 11, "color": colour},
                text=[text(point.label) for point in points],
                textposition="middle right",
                textfont=SMALL,
                hovertext=[
                    text(f"{point.label}: {_accuracy(point)} at {exact(point.costs[metric])}") for point in points
                ],
                hoverinfo="text",
                cliponaxis=False,
            )
        )
    return traces


def _accuracy(point: Point) -> str:
    spread = "" if point.spread is None else f" ± {100 * point.spread:.2f}"
    return f"{100 * point.accuracy:.2f}{spread} %"


def _ranking(shown: Front, metrics: list[str]) -> str:
    """What the plot shows, in words."""
    told = []
    for metric in metrics:
        names = [f"{p.label} ({percent(p.accuracy, 2)} at {short(p.costs[metric])})" for p in shown.best(metric)]
        told.append(f"by {shown.metrics[metric]}, no other beats {', '.join(names)}")
    bars = " Bars: standard deviation over training seeds." if any(point.spread for point in shown.points) else ""
    return (
        f"Accuracy ({shown.judged}) of {len(shown.points)} architectures against their cost: {'; '.join(told)}.{bars}"
    )


def _points(shown: Front) -> Markup:
    rows = [
        [
            point.label,
            KINDS[_family(point)][0],
            *(exact(point.costs.get(m)) for m in shown.metrics),
            _accuracy(point),
            str(point.n),
        ]
        for point in shown.points
    ]
    columns = [
        "architecture",
        "what",
        *(f">{unit}" for unit in shown.metrics.values()),
        f">accuracy ({shown.judged})",
        ">n",
    ]
    return table("The points", columns, rows)
