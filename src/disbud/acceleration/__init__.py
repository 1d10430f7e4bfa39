"""A whole network made of sparse kernels, to train and to run, with the kept weights as its parameters."""

from disbud.acceleration.accelerate import accelerate
from disbud.acceleration.accelerated import Accelerated
from disbud.acceleration.explaining import Explanation, LayerRow
from disbud.acceleration.routes import bench
from disbud.acceleration.timings import Bench, Route, Timing

__all__ = ["Accelerated", "Bench", "Explanation", "LayerRow", "Route", "Timing", "accelerate", "bench"]
