"""The page that a report is: what it says, that it needs nothing else, that it runs nothing of what files hold."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from morphsearch.errors import UsageError
from morphsearch.report.gather import gather
from morphsearch.report.page import markup, render, write
from tests.report import runs
from tests.report.runs import Page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'><b>&amp;"


def page_of(*folders: Path) -> Page:
    return Page(render([gather(folder) for folder in folders]))


def test_it_leads_with_the_verdict_of_compare(tmp_path: Path) -> None:
    from morphsearch.loop.comparison import compare

    run = runs.compared(runs.write(tmp_path / "a"))
    page = page_of(run.path)
    verdict = compare(run.path).verdict
    assert "beats uniform scaling by 5.00 points, more than the spread of 1.00" in verdict
    assert verdict in page.words
    assert page.words.index(verdict) < page.words.index("validation accuracy")


def test_it_shows_what_was_asked_and_costs_beside_budgets(tmp_path: Path) -> None:
    page = page_of(runs.compared(runs.write(tmp_path / "a")).path)
    for part in (
        "digits_net?num_classes=10",
        "1,295 training, 143 validation, 359 test",
        "flops=50%: at most 608,512 of the seed's 1,217,024 FLOPs",
        "flops=50%: 99.26% used",
        "49.6% of FLOPs",
        "95.50 ± 0.71 %",
        "random seed",
        "torch version 2.13.0",
        "morphsearch search digits_net --strategy gamma-l1 --iterations 2 --epochs 3 --run-dir",
        'strategy = "gamma-l1"',
    ):
        assert part in page.words, part


def test_it_needs_no_network_and_allows_no_script_but_its_own(tmp_path: Path) -> None:
    page = page_of(runs.compared(runs.write(tmp_path / "a")).path)
    links = [value for _, held in page.elements for name, value in held.items() if name in ("src", "href", "action")]
    assert [link for link in links if not str(link).startswith("#")] == []
    kinds = [held.get("type") for held in page.all("script")]
    assert kinds == ["application/json", None, None], "the figures, plotly once, and what draws them"
    (policy,) = (str(held["content"]) for held in page.all("meta") if held.get("http-equiv"))
    assert "default-src 'none'" in policy
    allowed = set(re.findall(r"'(sha256-[^']+)'", policy))
    hashes = {
        f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}" for text in page.scripts[1:]
    }
    assert hashes == allowed
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]


def test_plots_have_words_and_numbers_beside_them(tmp_path: Path) -> None:
    page = page_of(runs.compared(runs.write(tmp_path / "a")).path)
    plots = [held for held in page.all("div") if held.get("class") == "plot"]
    assert len(plots) == len(page.figures) == len(page.all("figcaption")) == 2
    assert all(held["role"] == "img" and held["aria-label"] for held in plots)
    assert "by FLOPs, no other beats 001 (95.50% at 604k)" in page.words
    assert "loss (training) from 2 to 1" in page.words
    assert "1 morph, 1 cut" in page.words
    assert all(held.get("scope") in ("row", "col") for held in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))


def test_a_run_without_training_has_no_plot_and_no_plotly(tmp_path: Path) -> None:
    empty = runs.write(tmp_path / "a", found=(), lines=[], complete=False)
    source = render([gather(empty.path)])
    page = Page(source)
    assert "No architecture has been found yet." in page.words
    assert page.scripts == []
    assert len(source) < 50_000


def test_nothing_that_files_hold_becomes_markup(tmp_path: Path) -> None:
    found = runs.architecture("001", notes=(HOSTILE,))
    found.budgets = [{**runs.BUDGET, "text": HOSTILE}]
    found.costs = {HOSTILE: {"total": 5, "unit": HOSTILE}, **found.costs}
    found.widths = {HOSTILE: 3, **found.widths}
    found.seed_widths = {HOSTILE: 4, **found.seed_widths}
    found.seed_spec = HOSTILE
    lines = [
        *runs.events(),
        {"event": "recovered", "step": 85, "iteration": 1, "reason": HOSTILE, "lr": 0.01},
        {"event": "warning", "step": 90, "text": HOSTILE},
    ]
    lines[-3] = {**lines[-3], "iteration": HOSTILE}
    folder = tmp_path / HOSTILE.replace("/", "_")
    run = runs.write(
        folder,
        found=(found,),
        lines=lines,
        seed_spec=HOSTILE,
        strategy=HOSTILE,
        budgets=[{**runs.BUDGET, "text": HOSTILE, "metric": HOSTILE}],
        seed_costs={HOSTILE: 10, **runs.COSTS},
        versions={HOSTILE: HOSTILE},
        config={"model": HOSTILE, HOSTILE: HOSTILE},
        data={"name": HOSTILE},
        hardware=HOSTILE,
    )
    extra = {"costs": {HOSTILE: 7, "flops": 604_000}, "widths": {}, "baseline_of": HOSTILE}
    for seed in (0, 1):
        runs.retrain(run, "uniform", seed, 0.9, label=f"uniform-{HOSTILE}", evaluated_on=HOSTILE, extra=extra)
        runs.retrain(run, "001", seed, 0.9, extra=extra)
    clean = page_of(runs.compared(runs.write(tmp_path / "clean")).path)
    for page in (page_of(run.path), page_of(run.path, tmp_path / "clean")):
        assert HOSTILE in page.text
        assert {"img", "b"} & {name for name, _ in page.elements} == set()
        assert [held for _, held in page.elements if any(name.startswith("on") for name in held)] == []
        assert len(page.scripts) == 3
        assert page.scripts[1:] == clean.scripts[1:]
        drawn = json.dumps(page.figures)
        assert "alert(1)" in drawn
        assert "<script" not in drawn, "plotly takes tags in texts for markup"
        assert "<img" not in drawn


def test_text_that_hides_or_turns_around_is_shown_as_such(tmp_path: Path) -> None:
    note = "evil\u202etxt.exe \x00 \ud800"
    run = runs.write(tmp_path / "a", found=(runs.architecture("001", notes=(note,)),))
    target = write([gather(run.path)], tmp_path / "a.html")
    text = target.read_text(encoding="utf-8")
    assert "evil\ufffdtxt.exe \ufffd \ufffd" in text
    assert not re.search("[\u202e\x00]", text)


def test_markup_is_what_was_made_as_such_and_nothing_else() -> None:
    made = markup.tag("p", "<b>", markup.tag("i", "&"), None, ["a", markup.tag("br")], class_='"x', hidden=False)
    assert made == '<p class="&quot;x">&lt;b&gt;<i>&amp;</i>a<br></p>'
    assert json.loads(markup.data({"</script>": "\u2028<!--"})) == {"</script>": "\u2028<!--"}
    assert "<" not in markup.data({"</script>": "<!--"})


def test_several_runs_share_an_overview_and_a_plot(tmp_path: Path) -> None:
    for name in ("a", "b"):
        runs.compared(runs.write(tmp_path / name))
    page = page_of(tmp_path / "a", tmp_path / "b")
    anchors = {held["id"] for held in page.all("article")}
    assert [held["href"] for held in page.all("a")] == ["#run-1", "#run-2"]
    assert anchors == {"run-1", "run-2"}
    assert len(page.figures) == 5, "one of both, and two of each"
    labels = {text for figure in page.figures for trace in figure["data"] for text in trace.get("text") or ()}
    assert {"a/001", "b/001", "b/uniform"} <= labels


def test_widths_are_bars_against_the_seed_and_branches_that_went_are_named(tmp_path: Path) -> None:
    found = runs.architecture("001", stem__conv=12, residual1__conv1__conv=0, mix__1__conv=96)
    found.costs.pop("params")  # as its widths make them, which this test does not count
    page = page_of(runs.write(tmp_path / "a", found=(found,)).path)
    assert "001: the branch of residual1.conv1.conv left the network." in page.words
    assert "residual1.conv1.conv 24 0 (left)" in page.words
    assert "stem.conv 24 12" in page.words
    bars = [held["aria-label"] for held in page.all("div") if held.get("class") == "bar"]
    assert {"50% of the seed's", "0% of the seed's", "150% of the seed's"} <= set(bars)
    assert len(bars) == 10, "one a layer with filters"


def test_a_seed_that_is_a_file_of_code_is_shown_by_group_until_it_may_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = tmp_path / "net.py"
    code.write_text(
        f"from pathlib import Path\nPath({str(trace)!r}).write_text('ran')\n"
        "from morphsearch.models import build_seed\ndef make():\n    return build_seed('digits_net').model\n"
    )
    found = runs.architecture("001", stem__conv=12)
    found.seed_spec = f"{code}:make"
    run = runs.write(tmp_path / "a", found=(found,))
    page = page_of(run.path)
    assert not trace.exists()
    assert "By group, since the seed cannot be built here" in page.words
    assert "stem.conv 24 12" in page.words
    assert gather(run.path, allow_code=True).widths.by == "layer"  # type: ignore[union-attr]
    assert trace.exists()


def test_leave_to_run_code_is_explained_beside_the_command_that_gives_it(tmp_path: Path) -> None:
    config = {"model": "net.py:build", "allow_code": True}
    page = page_of(runs.write(tmp_path / "a", config=config).path)
    assert "search net.py:build --allow-code" in page.words
    assert "read that code first" in page.words


def test_nothing_but_an_earlier_report_is_overwritten(tmp_path: Path) -> None:
    record = gather(runs.write(tmp_path / "a", found=(), lines=[]).path)
    target = tmp_path / "notes.html"
    target.write_text("my notes")
    with pytest.raises(UsageError, match="no report"):
        write([record], target)
    assert target.read_text() == "my notes"
    target.unlink()
    write([record], target)
    write([record], target)
    with pytest.raises(UsageError, match="folder"):
        write([record], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "notes.html"], "no temporary file is left"


def test_the_how_to_works_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "report.md"
    found = re.search(r"<!-- test: python -->\n```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    runs.compared(runs.write(Path("runs/a")))
    exec(found[1], {})
    assert "beats uniform scaling" in capsys.readouterr().out
    assert Path("a.html").exists()
