"""The pruned network for small devices and other runtimes: C, ONNX, and a file of the kept weights alone."""

from disbud.export.c_source import CSource, to_c
from disbud.export.onnx import to_onnx
from disbud.export.packed import from_safetensors, to_safetensors
from disbud.export.sizes import LayerSize, SizeReport

__all__ = ["CSource", "LayerSize", "SizeReport", "from_safetensors", "to_c", "to_onnx", "to_safetensors"]
