"""Which rows and columns of the input each tap of a window touches, forward and back."""

from __future__ import annotations

from dataclasses import dataclass

from disbud.errors import DisbudError


@dataclass(frozen=True)
class Taps:
    """One phase of one axis: pixels `first`, `first + step`, ...; tap k of pixel i reads i * stride + shifts[k].

    Only taps that touch the image for some pixel are listed; the others never read anything but zero.
    """

    first: int
    step: int
    count: int
    stride: int
    size: int
    shifts: dict[int, int]

    @property
    def reach(self) -> int:
        """How far outside the image the taps read."""
        ends = [-shift for shift in self.shifts.values()]
        ends += [(self.count - 1) * self.stride + s - (self.size - 1) for s in self.shifts.values()]
        return max([0, *ends])


@dataclass(frozen=True)
class Axis:
    """A window sliding along one axis of an image."""

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def output(self) -> int:
        """How many places the window takes."""
        places = (self.size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1
        if places < 1:
            raise DisbudError(
                f"a kernel of {self.kernel} with dilation {self.dilation} does not fit {self.size} pixels with "
                f"padding {self.padding}; give larger images or more padding"
            )
        return places

    def forward(self) -> Taps:
        """Output pixel i reads input i * stride + k * dilation - padding."""
        shifts = {k: k * self.dilation - self.padding for k in range(self.kernel)}
        return _touching(0, 1, self.output, self.stride, self.size, shifts)

    def backward(self) -> list[Taps]:
        """Input pixel j gets the gradient of outputs (j + padding - k * dilation) / stride, where that is whole.

        Pixels of the same remainder by the stride share their taps, and read neighbouring outputs.
        """
        phases = []
        for first in range(min(self.stride, self.size)):
            reached = {k: first + self.padding - k * self.dilation for k in range(self.kernel)}
            shifts = {k: at // self.stride for k, at in reached.items() if at % self.stride == 0}
            count = -(-(self.size - first) // self.stride)
            phases.append(_touching(first, self.stride, count, 1, self.output, shifts))
        return phases


def _touching(first: int, step: int, count: int, stride: int, size: int, shifts: dict[int, int]) -> Taps:
    live = {
        k: shift for k, shift in shifts.items() if any(0 <= i * stride + shift < size for i in range(count))
    }
    return Taps(first, step, count, stride, size, live)
