"""The search: budgets, strength, morphs, the run directory, retraining and comparison."""

from morphsearch.loop.api import search
from morphsearch.loop.architecture import Architecture
from morphsearch.loop.config import SearchConfig
from morphsearch.loop.results import SearchResult
from morphsearch.loop.session import Search
from morphsearch.loop.verification import Verification, verify

__all__ = ["Architecture", "Search", "SearchConfig", "SearchResult", "Verification", "search", "verify"]
