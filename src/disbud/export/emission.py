"""Each operation as a call in C, with the tables that it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from disbud.export.operations import (
    Affine,
    Along,
    Combine,
    Constant,
    Convolution,
    Elementwise,
    Linear,
    Move,
    Numbers,
    Operation,
    Pool,
    Program,
    View,
)
from disbud.export.sizes import LayerSize
from disbud.export.source import Source, literal, steps_of
from disbud.export.storage import Stored, rounded, stored

_EXPRESSIONS: dict[str, tuple[str, ...]] = {  # of v, and the names of the settings
    "relu": ("v < 0.0f ? 0.0f : v",),
    "leaky_relu": ("v < 0.0f ? v * slope : v", "slope"),
    "tanh": ("tanhf(v)",),
    "sigmoid": ("1.0f / (1.0f + expf(-v))",),
    "silu": ("v / (1.0f + expf(-v))",),
    "gelu": ("0.5f * v * (1.0f + erff(v * 0.70710678118654752f))",),
    "gelu_tanh": ("0.5f * v * (1.0f + tanhf(0.79788456080286536f * (v + 0.044715f * v * v * v)))",),
    "elu": ("v > 0.0f ? v : alpha * expm1f(v)", "alpha"),
    "selu": ("1.0507009873554805f * (v > 0.0f ? v : 1.6732632423543772f * expm1f(v))",),
    "hardtanh": ("v < low ? low : v > high ? high : v", "low", "high"),
    "hardsigmoid": ("v < -3.0f ? 0.0f : v > 3.0f ? 1.0f : (v + 3.0f) / 6.0f",),
    "hardswish": ("v < -3.0f ? 0.0f : v > 3.0f ? v : v * (v + 3.0f) / 6.0f",),
    "softplus": ("v * beta > threshold ? v : log1pf(expf(v * beta)) / beta", "beta", "threshold"),
    "mish": ("v * tanhf(v > 20.0f ? v : log1pf(expf(v)))",),
    "absolute": ("fabsf(v)",),
    "negative": ("-v",),
    "exponential": ("expf(v)",),
    "square_root": ("sqrtf(v)",),
    "square": ("v * v",),
}
_PAIRS = {
    "add": "*a + *c",
    "subtract": "*a - *c",
    "multiply": "*a * *c",
    "divide": "*a / *c",
    "maximum": "*a < *c || isnan(*c) ? *c : *a",
    "minimum": "*a > *c || isnan(*c) ? *c : *a",
}
_NEXT = {
    "dense": "place++;",
    "places": "place = *index++;",
    "gaps": "for (; *index == 255; index++)\n                place += 255;\n            place += *index++ + 1;",
}
_DENSE_TAPS = "c->inputs_a_group * c->kernel_height * c->kernel_width"


@dataclass(frozen=True)
class Emitter:
    """Writes operations into a source; `place` says how C names an array, `values` the type of the weights."""

    source: Source
    program: Program
    place: Callable[[View], str]
    values: str

    def emit(self, operation: Operation) -> LayerSize:
        """Write one operation; what it takes."""
        if isinstance(operation, Convolution):
            return self._convolution(operation)
        if isinstance(operation, Linear):
            return self._linear(operation)
        if isinstance(operation, Affine):
            return self._affine(operation)
        if isinstance(operation, Elementwise):
            return self._elementwise(operation)
        if isinstance(operation, Pool):
            return self._pool(operation)
        if isinstance(operation, Combine):
            return self._combine(operation)
        if isinstance(operation, Move):
            return self._move(operation)
        return self._along(operation)

    def _call(self, function: str, *arguments: object) -> None:
        self.source.calls.append(f"    {function}({', '.join(map(str, arguments))});")

    # Layers

    def _weights(
        self, weight: Numbers, bias: Numbers | None, *, layer: str, name: str
    ) -> tuple[list[str], Stored, LayerSize]:
        """The tables of a layer: their names as arguments, and their bytes."""
        form = stored(name, weight, values=self.values)
        arguments, index_bytes = [], 0
        values, value_bytes = self.source.table("values", form.values)
        arguments.append(values)
        for kind, table in (("index", form.index), ("counts", form.counts)):
            if table is not None:
                its, added = self.source.table(kind, table)
                arguments.append(its)
                index_bytes += added
        other_bytes = 0
        if bias is None:
            arguments.append("NULL")
        else:
            its, other_bytes = self.source.table("bias", rounded(name, bias, values="fp32"))
            arguments.append(its)
        kept = int(np.count_nonzero(form.values))
        return arguments, form, LayerSize(name, layer, str(form), kept, value_bytes, index_bytes, other_bytes)

    def _words(self, form: Stored, *, dense_count: str) -> dict[str, str]:
        """What a sparse or dense loop is made of."""
        half = form.values.dtype == np.float16
        widen = self.source.function("widen") if half else ""
        tables = "".join(
            f", const {table.dtype}_t *{name}"
            for name, table in (("index", form.index), ("counts", form.counts))
            if table is not None
        )
        types = [table.dtype.name for table in (form.index, form.counts) if table is not None]
        return {
            "CODE": "_".join([form.form, self.values, *types]),
            "VALUE": "uint16_t" if half else "float",
            "READ": f"{widen}(*values++)" if half else "*values++",
            "TABLES": tables,
            "NEXT": _NEXT[form.form]
            if form.index is None or form.index.itemsize < 4
            else "place = (int)*index++;",
            "COUNT": dense_count if form.counts is None else "(int)*counts++",
        }

    def _convolution(self, one: Convolution) -> LayerSize:
        arguments, form, size = self._weights(one.weight, one.bias, layer="convolution", name=one.name)
        self.source.function("tap")
        words = self._words(form, dense_count=_DENSE_TAPS)
        outputs, inputs = one.weight.shape[:2]
        sizes = [outputs, outputs // one.groups, inputs, *one.size_in, *one.size_out, *one.weight.shape[2:]]
        record, added = self.source.record("convolution", [*sizes, *one.stride, *one.padding, *one.dilation])
        area = max(
            prod(other.weight.shape[2:])
            for other in self.program.operations
            if isinstance(other, Convolution)
        )
        function = self.source.function("convolve", f"convolve_{words['CODE']}", AREA=str(area), **words)
        self._call(function, f"&{record}", self.place(one.source), self.place(one.output), *arguments)
        positions = one.size_out[0] * one.size_out[1]
        return replace(size, other_bytes=size.other_bytes + added, multiply_adds=form.values.size * positions)

    def _linear(self, one: Linear) -> LayerSize:
        arguments, form, size = self._weights(one.weight, one.bias, layer="linear", name=one.name)
        words = self._words(form, dense_count="inputs")
        dense = form.form == "dense"
        function = self.source.function(
            "linear", f"linear_{words['CODE']}", SIZE="int inputs, " if dense else "", **words
        )
        outputs, inputs = one.weight.shape
        sizes = [inputs, outputs] if dense else [outputs]
        for row in range(one.rows):
            read = _from(self.place(one.source), row * inputs)
            made = _from(self.place(one.output), row * outputs)
            self._call(function, *sizes, read, made, *arguments)
        return replace(size, multiply_adds=form.values.size * one.rows)

    # What lies between layers

    def _affine(self, one: Affine) -> LayerSize:
        function = self.source.function("affine", "scale_and_shift")
        names, total = [], 0
        for kind, numbers in (("scale", one.scale), ("shift", one.shift)):
            name, added = self.source.table(kind, rounded("BatchNorm", numbers, values="fp32"))
            names.append(name)
            total += added
        row = len(one.scale) * one.inner
        for start in range(0, one.rows * row, row):
            ends = (_from(self.place(one.source), start), _from(self.place(one.output), start))
            self._call(function, *ends, len(one.scale), one.inner, *names)
        return LayerSize("", "BatchNorm", other_bytes=total)

    def _elementwise(self, one: Elementwise) -> LayerSize:
        expression, *settings = _EXPRESSIONS[one.function]
        words = {"EXPRESSION": expression, "SETTINGS": "".join(f", float {name}" for name in settings)}
        function = self.source.function("elementwise", one.function, FUNCTION=one.function, **words)
        ends = (self.place(one.source), self.place(one.output))
        self._call(function, *ends, one.output.size, *map(literal, one.settings))
        return LayerSize("", one.function)

    def _pool(self, one: Pool) -> LayerSize:
        self.source.function("window")
        function = self.source.function(f"pool_{one.kind}")
        sizes = [one.planes, *one.size_in, *one.size_out, *(one.kernel or (0, 0)), *one.stride, *one.padding]
        record, added = self.source.record(
            "pooling", [*sizes, *one.dilation, int(one.counts_padding), one.divisor]
        )
        self._call(function, f"&{record}", self.place(one.source), self.place(one.output))
        return LayerSize("", f"{one.kind} pooling", other_bytes=added)

    def _combine(self, one: Combine) -> LayerSize:
        shape = one.output.shape
        self.source.function("block")
        function = self.source.function(
            "combine", one.function, FUNCTION=one.function, EXPRESSION=_PAIRS[one.function]
        )
        names, steps, total = [], [], 0
        for side in (one.left, one.right):
            if isinstance(side, Constant):
                name, added = self.source.table(
                    "constant", rounded(one.function, side.numbers, values="fp32")
                )
                own: tuple[int, ...] = side.numbers.shape
                total += added
            else:
                name, own = self.place(side), side.shape
            names.append(name)
            steps.append(_repeated(own, axes=len(shape)))
        block, added = self.source.block(shape, steps[0], steps[1], reader=one.function)
        self._call(function, f"&{block}", *names, self.place(one.output))
        return LayerSize("", one.function, other_bytes=total + added)

    def _move(self, one: Move) -> LayerSize:
        if not one.covers:
            fill = self.source.function("fill")
            self._call(fill, self.place(one.output), one.output.size, literal(one.fill))
        total = 0
        for part in one.parts:
            block, added = self.source.block(part.sizes, part.steps_from, part.steps_to, reader="a copy")
            function = self.source.function("copy")
            read = _from(self.place(part.source), part.start_from)
            made = _from(self.place(one.output), part.start_to)
            self._call(function, f"&{block}", read, made)
            total += added
        return LayerSize("", "copy", other_bytes=total)

    def _along(self, one: Along) -> LayerSize:
        ends = (self.place(one.source), self.place(one.output), one.outer, one.count, one.inner)
        if one.function in ("softmax", "log_softmax"):
            function = self.source.function("along_softmax", "softmax")
            self._call(function, *ends, int(one.function == "log_softmax"))
        else:
            divisor = literal(float(one.count) if one.function == "mean" else 1.0)
            self._call(self.source.function("along_sum", "sum"), *ends, divisor)
        return LayerSize("", one.function)


def _from(place: str, start: int) -> str:
    """The place of an entry further on."""
    return f"{place} + {start}" if start else place


def _repeated(shape: tuple[int, ...], *, axes: int) -> tuple[int, ...]:
    """The steps along so many axes of what has this shape: 0 where its one entry is repeated."""
    full = (1,) * (axes - len(shape)) + shape
    return tuple(0 if size == 1 else step for size, step in zip(full, steps_of(full), strict=True))
