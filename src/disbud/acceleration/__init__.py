"""A whole network made of sparse kernels, to train and to run, with the kept weights as its parameters."""

from disbud.acceleration.accelerate import accelerate
from disbud.acceleration.accelerated import Accelerated
from disbud.acceleration.explaining import Explanation, LayerRow

__all__ = ["Accelerated", "Explanation", "LayerRow", "accelerate"]
