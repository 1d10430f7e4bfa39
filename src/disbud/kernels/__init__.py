"""Sparse training kernels in C, and the layers made of them, in one layout for a whole network.

A whole step stays in the blocked layout: `pack` the images, chain layers from here, `unpack_features` at the end. A
layer's weights are one vector of the kept ones and a `Pattern` that says where they are.
"""

from disbud.kernels.convolution import folded_layer, sparse_branch, sparse_layer
from disbud.kernels.elementwise import add, concatenate, elementwise
from disbud.kernels.layout import Blocked, Layout, pack, unpack, unpack_features, with_halo
from disbud.kernels.library import library
from disbud.kernels.normalisation import Statistics, batch_norm
from disbud.kernels.pattern import Pattern
from disbud.kernels.pooling import Windows, adaptive_windows, average_pool, max_pool, sliding_windows

__all__ = [
    "Blocked",
    "Layout",
    "Pattern",
    "Statistics",
    "Windows",
    "adaptive_windows",
    "add",
    "average_pool",
    "batch_norm",
    "concatenate",
    "elementwise",
    "folded_layer",
    "library",
    "max_pool",
    "pack",
    "sliding_windows",
    "sparse_branch",
    "sparse_layer",
    "unpack",
    "unpack_features",
    "with_halo",
]
