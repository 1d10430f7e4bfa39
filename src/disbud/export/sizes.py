"""What an exported network takes: bytes of its tables by layer, bytes of RAM, multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerSize:
    """One operation: the bytes of its values, of what says where they lie, and of biases, constants and sizes.

    `name` is the weight's and is empty for what has none; `form` says how the weight is stored. A table that several
    operations read counts for the first. Multiply-adds are those of the weights stored, at all positions.

    >>> from disbud.export import LayerSize
    >>> LayerSize("conv1.weight", "convolution", "8-bit places", 20, 80, 36, 64, 20_480).table_bytes
    180
    """

    name: str
    kind: str
    form: str = ""
    kept: int = 0
    value_bytes: int = 0
    index_bytes: int = 0
    other_bytes: int = 0
    multiply_adds: int = 0

    @property
    def table_bytes(self) -> int:
        """All its tables."""
        return self.value_bytes + self.index_bytes + self.other_bytes


@dataclass(frozen=True)
class SizeReport:
    """All operations in order, the bytes of the static arrays, and what the dense network's parameters take in fp32.

    A file of weights has no static arrays and no multiply-adds. `note` says why dead channels were left in, where they
    were.

    >>> import disbud, torch
    >>> from disbud.export import to_c
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> masks = {"0.weight": torch.ones(3, 2), "2.weight": torch.tensor([[1, 0, 1]])}
    >>> report = to_c(model, disbud.Ticket.from_masks(masks), example=torch.zeros(1, 2)).report
    >>> report.ram_bytes, report.dense_bytes
    (8, 52)
    """

    layers: tuple[LayerSize, ...]
    dense_bytes: int
    ram_bytes: int = 0
    note: str = ""

    @property
    def table_bytes(self) -> int:
        """All tables; the code comes on top."""
        return sum(layer.table_bytes for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one input."""
        return sum(layer.multiply_adds for layer in self.layers)

    def __str__(self) -> str:
        part = f" ({self.table_bytes / self.dense_bytes:.1%} of the dense fp32)" if self.dense_bytes else ""
        running = f", RAM {self.ram_bytes:,} bytes, multiply-adds {self.multiply_adds:,}"
        lines = [f"tables {self.table_bytes:,} bytes{part}{running if self.multiply_adds else ''}"]
        heads = ("layer", "form", "kept", "values", "indices", "other", "multiply-adds")
        rows = [
            (row.name or row.kind, row.form, *(f"{number:,}" for number in _numbers(row)))
            for row in self.layers
            if row.name or row.table_bytes
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        for name, form, *cells in (heads, *rows):
            aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths[2:], strict=True)]
            lines.append("  ".join([f"{name:<{widths[0]}}", f"{form:<{widths[1]}}", *aligned]).rstrip())
        return "\n".join([*lines, *([self.note] if self.note else [])])


def _numbers(row: LayerSize) -> tuple[int, ...]:
    return (row.kept, row.value_bytes, row.index_bytes, row.other_bytes, row.multiply_adds)
