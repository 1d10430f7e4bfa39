"""The statistics that decide claims: paired differences over seeds, and verdicts that a person can read.

"Unchanged" is shown by equivalence within a margin fixed beforehand, never by a difference that is not significant. A
verdict is supported, contradicted, undecided (and how many more seeds it would take) or uninformative (not even a
positive control shows a difference). Differences are left minus right; accuracies are fractions, said in points.
"""

from __future__ import annotations

from disbud.claims.cells import Cells, for_all, there_is
from disbud.claims.clusters import Clustered, cluster_interval, cluster_test
from disbud.claims.controls import beats_guessing, positive_controls
from disbud.claims.correlation import Correlation, rank_correlation
from disbud.claims.crossing import chance_of_leaving
from disbud.claims.crossover import Crossover, crossover
from disbud.claims.equivalence import equivalence_p, superiority_p
from disbud.claims.holm import holm
from disbud.claims.intervals import Interval, bootstrap_interval, t_interval
from disbud.claims.many import Corrected, corrected, until_decided
from disbud.claims.margins import Margin, calibrated_margin
from disbud.claims.pairs import Pairs, paired
from disbud.claims.planning import chance_of_decision, seeds_for_decision
from disbud.claims.rules import Rule, Verdict
from disbud.claims.sequential import Looks
from disbud.claims.statements import AtLeast, Beats, BeatsBy, LosesAtMost, Same, Statement
from disbud.claims.trend import Trend, rising, slopes
from disbud.claims.verdicts import Decided, Judgement, judge

__all__ = [
    "AtLeast",
    "Beats",
    "BeatsBy",
    "Cells",
    "Clustered",
    "Corrected",
    "Correlation",
    "Crossover",
    "Decided",
    "Interval",
    "Judgement",
    "Looks",
    "LosesAtMost",
    "Margin",
    "Pairs",
    "Rule",
    "Same",
    "Statement",
    "Trend",
    "Verdict",
    "beats_guessing",
    "bootstrap_interval",
    "calibrated_margin",
    "chance_of_decision",
    "chance_of_leaving",
    "cluster_interval",
    "cluster_test",
    "corrected",
    "crossover",
    "equivalence_p",
    "for_all",
    "holm",
    "judge",
    "paired",
    "positive_controls",
    "rank_correlation",
    "rising",
    "seeds_for_decision",
    "slopes",
    "superiority_p",
    "t_interval",
    "there_is",
    "until_decided",
]
