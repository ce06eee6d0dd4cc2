"""What is found, where it is from, and what a broken plugin costs: one warning, never the others."""

from __future__ import annotations

import subprocess
import sys
import types
import warnings
from importlib.metadata import entry_points

import pytest

import morphsearch.hookspecs
from morphsearch import plugins
from morphsearch.errors import PluginError, UnknownName
from morphsearch.types import CostModelRecord

GOOD = """
    @hookimpl
    def morphsearch_cost_models():
        return [CostModelRecord("energy", "Energy of one image", lambda: 42)]
"""


def test_builtins_come_through_the_hooks() -> None:
    assert set(plugins.registry("cost_models")) >= {"flops", "params"}
    assert set(plugins.registry("strategies")) >= {"gamma-l1", "uniform", "random"}
    assert set(plugins.registry("data")) >= {"digits", "imagefolder", "cifar10", "npz"}
    assert set(plugins.registry("models")) >= {"resnet20", "resnet50", "mobilenet_v1", "vgg16_bn", "digits_net", "timm"}
    assert "local" in plugins.registry("executors")
    assert "widths" in plugins.registry("exporters")
    assert "search" in plugins.registry("commands")
    records = [record for kind in plugins.KINDS for record in plugins.registry(kind).values()]
    # Where more is installed, that has names of its own.
    installed = {
        f"{point.dist.name} {point.dist.version}"
        for point in entry_points(group="morphsearch")
        if point.dist is not None
    }
    assert {record.origin for record in records} - installed == {"morphsearch"}
    assert len(plugins.manager().get_plugins()) >= 7


def test_listing_imports_no_torch_and_no_model() -> None:
    code = (
        "import sys, morphsearch.plugins as p; p.listing(); "
        "print([m for m in ('torch', 'numpy', 'morphsearch.models', 'morphsearch.costs') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plugin_is_found_with_its_origin(install) -> None:
    install("morphsearch-joules", GOOD, version="2.3")
    record = plugins.record("cost_models", "energy")
    assert record.origin == "morphsearch-joules 2.3"
    assert record.factory() == 42
    assert not plugins.problems()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import morphsearch.plugins as p; p.registry('models')", "move the look-up into the factory"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_warning(install, source: str, reason: str) -> None:
    install("bad-plugin", source, version="0.7")
    install("good-plugin", GOOD)
    with pytest.warns(plugins.PluginWarning) as caught:
        assert "energy" in plugins.registry("cost_models")
        assert "flops" in plugins.registry("cost_models")
    assert len(caught) == 1
    text = str(caught[0].message)
    for part in ("bad-plugin = bad_plugin", "bad-plugin 0.7", reason, "pip uninstall bad-plugin"):
        assert part in text
    assert "\n" not in text


def test_a_warning_is_shown_once(install) -> None:
    install("bad-plugin", "1 / 0")
    with pytest.warns(plugins.PluginWarning) as caught:
        for _ in range(3):
            for kind in plugins.KINDS:
                plugins.registry(kind)
            plugins.listing()
    assert len(caught) == 1


def test_a_warning_is_one_line_on_stderr(install, tmp_path) -> None:
    install("bad-plugin", "1 / 0")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import morphsearch.plugins as p; p.listing()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stderr.strip().splitlines()) == 1
    assert "bad-plugin" in done.stderr


def test_strict_raises_until_it_is_repaired(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("bad-plugin", "1 / 0")
    monkeypatch.setenv("MORPHSEARCH_STRICT", "1")
    for _ in range(2):
        with pytest.raises(PluginError, match="bad-plugin") as caught:
            plugins.registry("cost_models")
        assert caught.value.exit_code == 4
    monkeypatch.setenv("MORPHSEARCH_STRICT", "0")
    with pytest.warns(plugins.PluginWarning):
        assert "flops" in plugins.registry("cost_models")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("@hookimpl\ndef morphsearch_cost_models():\n    raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("@hookimpl\ndef morphsearch_cost_models():\n    yield 1 / 0", "ZeroDivisionError"),
        (
            "@hookimpl\ndef morphsearch_cost_models():\n    pass",
            "returned NoneType instead of a list of CostModelRecord",
        ),
        (
            "@hookimpl\ndef morphsearch_cost_models():\n    return CostModelRecord('a', 'A', int)",
            "returned CostModelRecord instead of a list",
        ),
        ("@hookimpl\ndef morphsearch_cost_models():\n    return ['flops']", "'flops' where CostModelRecord is due"),
        (
            "@hookimpl\ndef morphsearch_cost_models():\n    return [StrategyRecord('a', 'A', int)]",
            "where CostModelRecord is due",
        ),
        ("@hookimpl\ndef morphsearch_cost_models():\n    return [CostModelRecord('a b', 'A', int)]", "the name 'a b'"),
        ("@hookimpl\ndef morphsearch_cost_models():\n    return [CostModelRecord('a', '', int)]", "without a summary"),
        ("@hookimpl\ndef morphsearch_cost_models():\n    return [CostModelRecord('a', 'A', 3)]", "cannot be called"),
        ("@hookimpl\ndef morphsearch_cost_model():\n    return []", "did you mean morphsearch_cost_models?"),
        ("@hookimpl\ndef morphsearch_cost_models(graph):\n    return []", "graph"),
        ("def morphsearch_cost_models():\n    return []", "put @morphsearch.hookimpl above it"),
        ("@hookimpl(wrapper=True)\ndef morphsearch_cost_models():\n    yield", "is a wrapper"),
        ("x = 1", "implements no hook"),
    ],
)
def test_a_hook_that_misbehaves_is_one_warning(install, source: str, expected: str) -> None:
    module = "from morphsearch.types import *\n" + source
    install("odd-plugin", module)
    install("good-plugin", GOOD)
    with pytest.warns(plugins.PluginWarning) as caught:
        names = set(plugins.registry("cost_models"))
    assert {"flops", "params", "energy"} <= names
    assert len(caught) == 1
    assert expected in str(caught[0].message)
    assert "odd-plugin 1.0" in str(caught[0].message)


def test_strict_covers_hooks_too(install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHSEARCH_STRICT", "1")
    install("odd-plugin", "@hookimpl\ndef morphsearch_cost_models():\n    return 3")
    for _ in range(2):
        with pytest.raises(PluginError, match="returned int"):
            plugins.registry("cost_models")
    assert "uniform" in plugins.registry("strategies")


def test_one_bad_record_leaves_the_others(install) -> None:
    install("half-plugin", GOOD.replace("return [", "return [CostModelRecord('', 'no name', int), "))
    with pytest.warns(plugins.PluginWarning, match="the name ''"):
        assert "energy" in plugins.registry("cost_models")


def test_a_misspelt_hook_leaves_the_others(install) -> None:
    install("half-plugin", GOOD + "\n    @hookimpl\n    def morphsearch_strategys():\n        return []\n")
    with pytest.warns(plugins.PluginWarning, match=r"did you mean morphsearch_strategies\?"):
        assert "energy" in plugins.registry("cost_models")


def test_a_builtin_wins_over_a_plugin(install) -> None:
    install("greedy-plugin", GOOD.replace("energy", "flops"))
    with pytest.warns(plugins.PluginWarning, match="greedy-plugin 1.0.*built in"):
        assert plugins.registry("cost_models")["flops"].origin == "morphsearch"


def test_the_first_plugin_wins_and_both_are_named(install) -> None:
    install("plugin-b", GOOD)
    install("plugin-a", GOOD)
    with pytest.warns(plugins.PluginWarning) as caught:
        assert plugins.registry("cost_models")["energy"].origin == "plugin-a 1.0"
    assert "plugin-b 1.0" in str(caught[0].message)
    assert "plugin-a 1.0" in str(caught[0].message)


def test_duplicates_raise_when_strict(install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHSEARCH_STRICT", "1")
    install("greedy-plugin", GOOD.replace("energy", "flops"))
    with pytest.raises(PluginError, match="flops"):
        plugins.registry("cost_models")


@pytest.mark.parametrize("disabled", ["joules", "Morphsearch.Joules", "other, joules", "all"])
def test_plugins_can_be_disabled(install, monkeypatch: pytest.MonkeyPatch, disabled: str) -> None:
    install("morphsearch-joules", GOOD, entry_point="joules = morphsearch_joules")
    monkeypatch.setenv("MORPHSEARCH_DISABLE_PLUGINS", disabled)
    assert "energy" not in plugins.registry("cost_models")
    assert any(row.status == "disabled" and row.origin == "morphsearch-joules 1.0" for row in plugins.listing())
    assert "morphsearch_joules" not in sys.modules


def test_modules_named_in_the_environment_are_plugins(write_module, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(
        "my_costs",
        """
        import morphsearch.hookspecs
        from morphsearch.types import CostModelRecord

        @morphsearch.hookspecs.hookimpl
        def morphsearch_cost_models():
            yield CostModelRecord("euros", "What it costs to run", int)
        """,
    )
    monkeypatch.setenv("MORPHSEARCH_PLUGINS", "my_costs, no_such_plugin")
    with pytest.warns(plugins.PluginWarning, match="no_such_plugin.*MORPHSEARCH_PLUGINS"):
        assert plugins.registry("cost_models")["euros"].origin == "my_costs (MORPHSEARCH_PLUGINS)"


class _Plugin:
    @morphsearch.hookspecs.hookimpl
    def morphsearch_cost_models(self) -> list[CostModelRecord]:
        return [CostModelRecord("bytes", "Bytes", int)]


def test_a_plugin_is_registered_in_process() -> None:
    plugin = _Plugin()
    assert "bytes" not in plugins.registry("cost_models")
    plugins.register(plugin)
    plugins.register(plugin)
    assert plugins.registry("cost_models")["bytes"].origin == "_Plugin (this process)"
    plugins.unregister(plugin)
    plugins.unregister(plugin)
    assert "bytes" not in plugins.registry("cost_models")


def test_a_module_is_registered_by_its_name(write_module) -> None:
    write_module("named_plugin", "import morphsearch.hookspecs as h\n@h.hookimpl\ndef morphsearch_data(): return []\n")
    plugins.register("named_plugin")
    assert plugins.manager().has_plugin("named_plugin")
    with pytest.raises(PluginError, match="no_such_module_at_all"):
        plugins.register("no_such_module_at_all")


def test_registering_something_wrong_raises_and_leaves_nothing() -> None:
    module = types.ModuleType("misspelt")

    @morphsearch.hookspecs.hookimpl
    def morphsearch_stratgies() -> list[object]:
        return []

    module.morphsearch_stratgies = morphsearch_stratgies  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match="did you mean morphsearch_strategies"):
        plugins.register(module)
    assert not plugins.manager().is_registered(module)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean gamma-l1"):
        plugins.record("strategies", "gama-l1")
    with pytest.raises(UnknownName, match="did you mean cost_models"):
        plugins.registry("cost_model")


def test_an_unknown_name_points_at_broken_plugins(install) -> None:
    install("bad-plugin", "1 / 0")
    with pytest.warns(plugins.PluginWarning), pytest.raises(UnknownName, match="bad-plugin"):
        plugins.record("cost_models", "zzzzzz")


def test_a_factory_that_fails_names_its_plugin(install) -> None:
    install("joules", GOOD.replace("lambda: 42", "lambda: 1 / 0"))
    with pytest.raises(PluginError, match=r"cost model 'energy' of joules 1\.0.*ZeroDivisionError") as caught:
        plugins.create("cost_models", "energy")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_factory_that_makes_something_else_names_its_plugin(install) -> None:
    install("joules", GOOD)
    with pytest.raises(PluginError, match=r"cost model 'energy' of joules 1\.0 returned 42") as caught:
        plugins.create("cost_models", "energy")
    assert "bind()" in caught.value.rule


def test_listing_has_names_origins_and_what_is_broken(install) -> None:
    install("bad-plugin", "1 / 0")
    install("good-plugin", GOOD + "\n    @hookimpl\n    def morphsearch_search_end(result): pass\n")
    install("greedy-plugin", GOOD.replace("energy", "flops"))
    with pytest.warns(plugins.PluginWarning):
        rows = plugins.listing()
    table = {(row.kind, row.name, row.origin): row for row in rows}
    assert table["cost_models", "energy", "good-plugin 1.0"].status == "ok"
    assert table["cost_models", "energy", "good-plugin 1.0"].summary == "Energy of one image"
    assert table["events", "morphsearch_search_end", "good-plugin 1.0"].status == "ok"
    assert table["plugin", "bad-plugin", "bad-plugin 1.0"].status.startswith("broken: ")
    assert "left out" in table["cost_models", "flops", "greedy-plugin 1.0"].status
    assert rows[0].to_dict().keys() == {"kind", "name", "summary", "origin", "status"}


def test_warnings_made_errors_leave_a_usable_registry(install) -> None:
    install("bad-plugin", "1 / 0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(plugins.PluginWarning):
            plugins.registry("cost_models")
        assert "flops" in plugins.registry("cost_models")


def test_two_distributions_may_share_an_entry_point_name(install) -> None:
    install("plugin-a", GOOD, entry_point="costs = plugin_a")
    install("plugin-b", GOOD.replace("energy", "area"), entry_point="costs = plugin_b")
    assert {"energy", "area"} <= set(plugins.registry("cost_models"))
