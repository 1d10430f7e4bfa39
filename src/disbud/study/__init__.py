"""Studies: trials, each a value that says all its result depends on, and the engines that run them."""

from disbud.study.engines import Failure, in_process, pool
from disbud.study.keeping import kept_or_run
from disbud.study.running import Outcome, run
from disbud.study.trial import Seeds, Trial

__all__ = ["Failure", "Outcome", "Seeds", "Trial", "in_process", "kept_or_run", "pool", "run"]
