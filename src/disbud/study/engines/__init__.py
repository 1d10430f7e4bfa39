"""Engines: what runs a function over many items and hands back each result as it comes."""

from disbud.study.engines.in_process import InProcess
from disbud.study.engines.pool import Pool
from disbud.study.engines.protocol import Ended, Engine, Expected, Failure, Running
from disbud.study.engines.ray_cluster import Ray

__all__ = ["Ended", "Engine", "Expected", "Failure", "InProcess", "Pool", "Ray", "Running"]
