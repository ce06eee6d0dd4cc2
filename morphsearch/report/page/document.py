"""Records as one HTML file: style, plotly and figures are in it, and it may run no script but these."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from morphsearch.arguments import named_arguments, require_path
from morphsearch.errors import UsageError
from morphsearch.files import write_text
from morphsearch.report.page import fronts, sections, trajectories
from morphsearch.report.page.markup import Markup, data, details, join, tag
from morphsearch.report.page.plots import Drawn
from morphsearch.report.records import Front, Point, RunRecord

GENERATOR = "morphsearch report"
_HEAD = 1000  # characters of a page within which it says what made it


@named_arguments
def write(records: Sequence[RunRecord], path: str | Path) -> Path:
    """Write the page, atomically; an earlier report there is replaced.

    Raises:
        UsageError: `path` holds something else. InputError: it cannot be written to.
    """
    require_path(path, "path")
    target = Path(path)
    check_target(target)
    write_text(target, render(records))
    return target


def check_target(path: Path) -> None:
    """Refuse a path that holds something else than an earlier report.

    Raises:
        UsageError: as said.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "a report is one file", f"write for example {path / 'report.html'}")
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as stream:
            ours = f'content="{GENERATOR}"' in stream.read(_HEAD)
        if not ours:
            raise UsageError(
                f"{path} is there already, and is no report",
                "nothing is overwritten but an earlier report",
                "choose another --output",
            )


@named_arguments
def render(records: Sequence[RunRecord]) -> str:
    """The page of one or more runs. Needs no network to be read; about 5 MB, nearly all of them plotly's."""
    if not records:
        raise UsageError("no run is given", "a report is of one run or more", "name a run directory")
    page = _Page()
    title = f"morphsearch: {', '.join(record.name for record in records)}"
    anchors = [f"run-{number}" for number in range(1, len(records) + 1)]
    several = len(records) > 1
    body = [page.run(record, anchor, 1 + several) for record, anchor in zip(records, anchors, strict=True)]
    if several:
        body = [tag("h1", f"Report of {len(records)} runs"), page.together(records, anchors), *body]
    scripts, drawing = page.scripts()
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(_hash(script) for script in scripts) or chr(39) + 'none' + chr(39)}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
        ]
    )
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="generator", content=GENERATOR),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(_resource("page.css"))),
    ]
    whole = tag("html", tag("head", head), tag("body", tag("main", body), drawing), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


class _Page:
    """Collects the figures of a page while its parts are made."""

    def __init__(self) -> None:
        self.figures: list[dict[str, Any]] = []

    def run(self, record: RunRecord, anchor: str, level: int = 2) -> Markup:
        """One run with all that belongs to it."""
        heading, below = f"h{level}", f"h{min(level + 1, 6)}"
        shown = record.widths
        parts: list[tuple[str, Any]] = [
            ("", sections.faults(record.faults)),
            ("Result", sections.sparsity(record)),
            ("Found", sections.architectures(record)),
            (
                "Retrained",
                [
                    sections.comparison(record),
                    self.plot(fronts.front(record.name, record.front)) if record.front is not None else None,
                    sections.trainings(record),
                ],
            ),
            (
                "How it went",
                [
                    self.plot(trajectories.trajectory(record.name, record.trajectory)),
                    self.plot(trajectories.trials(record.name, record.trajectory)),
                ],
            ),
            ("Widths", sections.widths(shown) if shown is not None else None),
            ("Notes and warnings", sections.notes(record.notes)),
            ("What was asked", sections.asked(record)),
        ]
        if record.front is not None and record.comparison is None:
            parts = [("Accuracy against cost" if name == "Retrained" else name, part) for name, part in parts]
        inner = [
            tag("section", tag(below, name) if name else None, content)
            for name, part in parts
            if (content := join([part]))
        ]
        sparse = [
            self.run(one, f"{anchor}-sparse-{number}", level + 1) for number, one in enumerate(record.sparsified, 1)
        ]
        kind = "Sparsification" if record.kind == "sparsify" else "Search"
        return tag(
            "article",
            tag(heading, f"{kind} ", tag("span", record.path, class_="path"), " ", sections.state(record)),
            tag("p", record.summary) if record.summary else None,
            sections.verdict(record),
            inner,
            sparse,
            id=anchor,
        )

    def together(self, records: Sequence[RunRecord], anchors: Sequence[str]) -> Markup:
        """What several runs have in common: a line each, and one plane for those that were judged on the same data."""
        planes: dict[tuple[str, str], Front] = {}
        for record in records:
            if record.front is None:
                continue
            key = (record.asked.get("data", ""), record.front.judged)
            held = planes.setdefault(key, Front(record.front.judged, {}, []))
            held.metrics |= record.front.metrics
            held.points += [
                Point(f"{record.name}/{p.label}", p.kind, p.costs, p.accuracy, p.spread, p.n)
                for p in record.front.points
            ]
        shared = [
            self.plot(fronts.front(f"all runs on {on.split(':')[0]}", front))
            for (on, _), front in planes.items()
            if len({point.label.split("/")[0] for point in front.points}) > 1
        ]
        return tag("section", tag("h2", "All runs"), sections.overview(records, anchors), shared)

    def plot(self, drawn: Drawn | None) -> Markup | None:
        """A place for a figure, what it shows in words, and its numbers."""
        if drawn is None:
            return None
        self.figures.append(drawn.figure)
        place = f"plot-{len(self.figures)}"
        height = drawn.figure["layout"]["height"]
        return tag(
            "figure",
            tag("div", id=place, class_="plot", role="img", aria_label=drawn.title, style=f"min-height:{height}px"),
            tag("figcaption", drawn.words),
            details("The numbers", drawn.numbers),
        )

    def scripts(self) -> tuple[list[str], Markup]:
        """The texts of the scripts, for their hashes, and what stands at the end of the page; none without a figure."""
        if not self.figures:
            return [], Markup("")
        from plotly.offline import get_plotlyjs

        library = get_plotlyjs().replace("\r\n", "\n")
        texts = [library, _resource("page.js")]
        shown = tag("script", data(self.figures), type="application/json", id="figures")
        missing = tag("noscript", tag("p", "Plots need JavaScript; the tables have the same numbers."))
        return texts, join([missing, shown, *(tag("script", Markup(text)) for text in texts)])


def _hash(script: str) -> str:
    """How a policy names a script."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _resource(name: str) -> str:
    return files("morphsearch.report.page").joinpath(name).read_text(encoding="utf-8")
