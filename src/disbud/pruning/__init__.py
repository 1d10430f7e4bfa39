"""Pruning: from a model and a method's name to a ticket, or to the scores behind it."""

from disbud.pruning.prune import prune, scores

__all__ = ["prune", "scores"]
