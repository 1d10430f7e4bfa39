"""Pruning: from a model and a method's name to a ticket, or to the scores behind it."""

from disbud.pruning.own import own_ticket
from disbud.pruning.prune import prune, scores

__all__ = ["own_ticket", "prune", "scores"]
