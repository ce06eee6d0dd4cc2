"""Seeds: the built-in networks, and everything that a seed spec can name."""

from morphsearch.models.spec import Seed, SeedSpec, build_seed, parse_spec

__all__ = ["Seed", "SeedSpec", "build_seed", "parse_spec"]
