"""Sanity checks of pruning methods (Su et al. 2020): does a method use its data, its connections, its weights?"""

from disbud.sanity.check import sanity_check
from disbud.sanity.findings import Row, SanityCheck

__all__ = ["Row", "SanityCheck", "sanity_check"]
