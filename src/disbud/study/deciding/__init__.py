"""Deciding the claims of a study on its records."""

from disbud.study.deciding.bounds import held
from disbud.study.deciding.decide import decide, decide_in_looks
from disbud.study.deciding.needs import check
from disbud.study.deciding.settings import Setting

__all__ = ["Setting", "check", "decide", "decide_in_looks", "held"]
