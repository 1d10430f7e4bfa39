"""What can be read off a ticket and a model: weights, graphs, overlaps, signals. Every measure returns a `Table`."""

from disbud.measures.cost import cost
from disbud.measures.degrees import degree_distribution, degrees
from disbud.measures.distances import jensen_shannon, kolmogorov_smirnov, wasserstein
from disbud.measures.expansion import expansion
from disbud.measures.jacobian import jacobian
from disbud.measures.overlap import overlap
from disbud.measures.paths import paths
from disbud.measures.signal import signal
from disbud.measures.table import Table
from disbud.measures.tangent import tangent_kernel
from disbud.measures.weights import compare_weights, histograms, weights

__all__ = [
    "Table",
    "compare_weights",
    "cost",
    "degree_distribution",
    "degrees",
    "expansion",
    "histograms",
    "jacobian",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "overlap",
    "paths",
    "signal",
    "tangent_kernel",
    "wasserstein",
    "weights",
]
