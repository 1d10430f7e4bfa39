"""From scores and budgets to masks: exact counts, density rules, schedules."""

from disbud.selection.budgets import SCHEDULES, check_sparsity, kept_count, schedule
from disbud.selection.densities import RULES, Densities, allocate
from disbud.selection.top import keep_highest, keep_lowest

__all__ = [
    "RULES",
    "SCHEDULES",
    "Densities",
    "allocate",
    "check_sparsity",
    "keep_highest",
    "keep_lowest",
    "kept_count",
    "schedule",
]
