"""Sanity checks of pruning methods (Su et al. 2020): does a method use its data, its connections, its weights?"""

from disbud.sanity.check import sanity_check
from disbud.sanity.findings import Row, SanityCheck, Shared

__all__ = ["Row", "SanityCheck", "Shared", "sanity_check"]
