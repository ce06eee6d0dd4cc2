"""What every command must do; subclass :class:`CommandConformance` in a test module to check yours."""

from __future__ import annotations

import subprocess
import sys

from click.testing import CliRunner, Result

from morphsearch import plugins
from morphsearch.cli import main


class CommandConformance:
    """Cases for a command that a plugin adds::

        class TestGroups(CommandConformance):
            name = "groups"

    Attributes:
        name: of the command.
    """

    name: str

    def run(self, *arguments: str) -> Result:
        """``morphsearch NAME ARGUMENTS`` in this process."""
        return CliRunner().invoke(main, [self.name, *arguments])

    def test_it_is_listed_with_its_summary(self) -> None:
        """Where users look."""
        shown = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
        assert f"{self.name} {plugins.record('commands', self.name).summary}" in shown

    def test_it_explains_itself(self) -> None:
        """``--help``, in words and not in options alone."""
        found = self.run("--help")
        assert found.exit_code == 0, found.output
        assert "Usage:" in found.output
        assert len(found.output.split()) > 10, "say what it does"

    def test_an_option_that_there_is_not_is_a_usage_error(self) -> None:
        """As with every command."""
        assert self.run("--no-such-option-here").exit_code == 2

    def test_listing_it_imports_no_torch(self) -> None:
        """Every plugin's command is looked up for ``--help``, which should stay quick: import torch in the command."""
        script = (
            "import sys\nfrom morphsearch.cli import main\n"
            "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
            "sys.exit('torch' in sys.modules)\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"torch is imported\n{done.stderr}"
