"""Plugins to begin with: small packages that work, with their tests, for every kind of plugin. Imports no torch."""

from morphsearch.scaffolding.kinds import KINDS, PluginKind
from morphsearch.scaffolding.names import Names, named
from morphsearch.scaffolding.package import Written, sources, write

__all__ = ["KINDS", "Names", "PluginKind", "Written", "named", "sources", "write"]
