"""How a run went: loss, accuracy, cost and strength over its steps, and the candidates that were tried out."""

from __future__ import annotations

from typing import Any

from morphsearch.report.numbers import percent
from morphsearch.report.page.markup import Markup, table
from morphsearch.report.page.plots import COLOURS, GREY, SMALL, Drawn, layout, text
from morphsearch.report.records import Mark, Panel, Trajectory
from morphsearch.report.trajectory import thin

MARKS = {"morph": COLOURS[0], "recovered": COLOURS[1], "warning": COLOURS[1], "interrupted": GREY, "resumed": GREY}
COUNTED = (
    ("morph", "morph", "morphs"),
    ("cut", "cut", "cuts"),
    ("recovered", "recovery", "recoveries"),
    ("interrupted", "interruption", "interruptions"),
)
PANEL = 220
"""Height of a panel in pixels."""

MOST_ROWS = 50
"""Of the table beneath."""

MOST_LETTERS = 24
"""Of what stands beside a mark."""

APART = 0.16
"""The room that a name takes, as a share of all steps."""


def trajectory(name: str, shown: Trajectory) -> Drawn | None:
    """Loss, accuracy, cost and strength over steps, with what happened; None where nothing trained."""
    panels = shown.panels
    if not panels:
        return None
    from plotly import graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.36 / len(panels),
        subplot_titles=[p.title for p in panels],
    )
    for place, panel in enumerate(panels, 1):
        for number, curve in enumerate(panel.curves):
            trace = go.Scatter(
                x=curve.steps,
                y=curve.values,
                name=text(curve.name),
                mode="lines+markers" if len(curve.steps) < 40 else "lines",
                line={
                    "color": COLOURS[number % len(COLOURS)],
                    "width": 2,
                    "dash": ("solid", "dot", "dash")[number % 3],
                },
                marker={"size": 5},
                showlegend=len(panel.curves) > 1,
                legend=_legend_name(place),
                hovertemplate="step %{x:,.0f}: %{y:.3~" + ("%" if panel.scale == "percent" else "g") + "}",
            )
            figure.add_trace(trace, row=place, col=1)
        for label, limit in panel.limits.items():
            figure.add_hline(
                y=limit,
                line={"color": GREY, "width": 1, "dash": "dash"},
                annotation={"text": text(label), "font": SMALL},
                annotation_position="bottom left",
                row=place,
                col=1,
            )
        figure.update_yaxes(_axis(panel), row=place, col=1)
    for title in figure.layout.annotations[: len(panels)]:  # its legend stands between it and its panel
        title.update(x=0, xanchor="left", yshift=20, font={"size": 14})
    cuts = [mark for mark in shown.marks if mark.kind == "cut"]
    costs = next((place for place, panel in enumerate(panels, 1) if panel.title.startswith("Cost")), None)
    if cuts and costs is not None:
        figure.add_trace(_cuts(cuts, costs), row=costs, col=1)
    labelled = _labelled(shown)
    for mark in shown.marks:
        if mark.kind not in MARKS:
            continue
        figure.add_vline(
            x=mark.step,
            line={"color": MARKS[mark.kind], "width": 1, "dash": "solid" if mark.kind == "morph" else "dashdot"},
        )
        if mark in labelled:
            figure.add_annotation(
                x=mark.step,
                y=1,
                yref="paper",
                yanchor="bottom",
                yshift=36,  # above the title of the first panel
                text=text(mark.text.partition(":")[0][:MOST_LETTERS] if mark.kind == "morph" else mark.kind),
                showarrow=False,
                font=SMALL,
                xanchor="right",
            )
    figure.update_xaxes(title={"text": "optimizer steps"}, row=len(panels), col=1)
    figure.update_layout(layout(60 + PANEL * len(panels)))
    figure.update_layout({_legend_name(place): _legend(figure, place) for place in range(1, len(panels) + 1)})
    figure.update_layout(margin={"t": 72}, showlegend=True)
    return Drawn(f"Trajectory of {name}", figure.to_dict(), _story(shown), _steps(shown))


def _labelled(shown: Trajectory) -> list[Mark]:
    """The marks whose names have room beside each other; those of morphs first."""
    length = max((mark.step for mark in shown.marks), default=0)
    length = max([length, *(curve.steps[-1] for panel in shown.panels for curve in panel.curves)])
    kept: list[Mark] = []
    for mark in sorted(shown.marks, key=lambda mark: mark.kind != "morph"):
        if mark.kind in MARKS and all(abs(mark.step - other.step) > APART * length for other in kept):
            kept.append(mark)
    return kept


def _cuts(cuts: list[Mark], place: int) -> Any:
    from plotly import graph_objects as go

    return go.Scatter(
        x=[mark.step for mark in cuts],
        y=[mark.cost for mark in cuts],
        name="cut",
        mode="markers",
        marker={"symbol": "triangle-down", "size": 9, "color": COLOURS[2]},
        hovertext=[text(mark.text) for mark in cuts],
        hoverinfo="text",
        legend=_legend_name(place),
    )


def _axis(panel: Panel) -> dict[str, Any]:
    axis: dict[str, Any] = {"rangemode": "tozero", "nticks": 5}
    if panel.scale == "percent":
        axis["tickformat"] = ".3~%"
    if panel.scale == "log":
        axis |= {"type": "log", "exponentformat": "power", "dtick": 1, "rangemode": "normal"}
    return axis


def _legend_name(place: int) -> str:
    return f"legend{place if place > 1 else ''}"


def _legend(figure: Any, place: int) -> dict[str, Any]:
    """Between the title of its panel and the panel."""
    top = figure.layout[f"yaxis{place if place > 1 else ''}"].domain[1]
    return {"orientation": "h", "x": 0, "xanchor": "left", "y": top, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"}


def _story(shown: Trajectory) -> str:
    """A trajectory in words."""
    told = []
    for panel in shown.panels:
        for curve in panel.curves:
            first, last = (_value(panel, curve.values[index]) for index in (0, -1))
            title = panel.title.partition(" of ")[0].lower()
            whose = "" if curve.name == title else f" ({curve.name})"
            told.append(f"{title}{whose} from {first} to {last}")
    kinds = [mark.kind for mark in shown.marks]
    counts = [f"{count} {one if count == 1 else more}" for kind, one, more in COUNTED if (count := kinds.count(kind))]
    lines = [f"{mark.kind} at {mark.step:,.0f}" for mark in shown.marks if mark.kind in MARKS and mark.kind != "morph"]
    steps = max((curve.steps[-1] for panel in shown.panels for curve in panel.curves), default=0)
    cuts = " Triangles: what the network costs once units have left it." if "cut" in kinds else ""
    others = f" Broken lines: {', '.join(lines)}." if lines else ""
    return f"Over {steps:,.0f} steps: {'; '.join(told)}. {', '.join(counts) or 'No morph'}.{cuts}{others}"


def _value(panel: Panel, value: float) -> str:
    return percent(value) if panel.scale == "percent" else f"{value:.3g}"


def _steps(shown: Trajectory) -> Markup:
    """The numbers of a trajectory where it was judged; thinned out to what can be read."""
    curves = [
        (f"{panel.title.split(' of ')[0]}: {curve.name}", panel, curve)
        for panel in shown.panels
        for curve in panel.curves
    ]
    known = [dict(zip(curve.steps, curve.values, strict=True)) for _, _, curve in curves]
    judged = shown.panels[0].curves[0].steps
    rows = []
    for step in thin(judged, MOST_ROWS):
        rows.append(
            [
                f"{step:,.0f}",
                *(
                    _value(panel, held[step]) if step in held else ""
                    for (_, panel, _), held in zip(curves, known, strict=True)
                ),
            ]
        )
    caption = "By epoch" if len(judged) <= MOST_ROWS else f"{MOST_ROWS} of {len(judged)} epochs; metrics.jsonl has all"
    return table(caption, [">step", *(f">{name}" for name, _, _ in curves)], rows)


def trials(name: str, shown: Trajectory) -> Drawn | None:
    """Accuracy of the candidates that were tried out, in their order; None where there were none."""
    tried = [trial for trial in shown.trials if trial.accuracy is not None]
    if not tried:
        return None
    from plotly import graph_objects as go

    figure = go.Figure()
    lengths = list(dict.fromkeys(trial.epochs for trial in tried))
    for place, length in enumerate(lengths):
        same = [trial for trial in tried if trial.epochs == length]
        figure.add_scatter(
            x=[trial.number for trial in same],
            y=[trial.accuracy for trial in same],
            mode="markers",
            name="trial" if length is None else f"{length:.3g} epochs",
            marker={
                "size": 9,
                "color": COLOURS[place % len(COLOURS)],
                "symbol": ("circle", "square", "diamond")[place % 3],
            },
            hovertemplate="trial %{x}: %{y:.2%}",
        )
    figure.update_layout(layout(340))
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}, showlegend=True)
    figure.update_xaxes(title={"text": "trial"}, dtick=max(1, len(tried) // 10))
    figure.update_yaxes(title={"text": "validation accuracy"}, tickformat=".3~%")
    best = max(tried, key=lambda trial: trial.accuracy or 0.0)
    top = percent(best.accuracy, 2)
    words = f"{len(shown.trials)} trainings of candidates; the best accuracy, {top}, is that of trial {best.number}."
    rows = [
        [
            str(t.number),
            "-" if t.epochs is None else f"{t.epochs:.3g}",
            "-" if t.loss is None else f"{t.loss:.3f}",
            percent(t.accuracy, 2),
        ]
        for t in shown.trials
    ]
    return Drawn(
        f"Trials of {name}",
        figure.to_dict(),
        words,
        table("The trials", [">trial", ">epochs", ">loss", ">accuracy"], rows),
    )
