"""What pictures drawn with matplotlib share: names that are no formulas, the same bytes each time, open intervals."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE: dict[Any, object] = {"svg.hashsalt": "disbud", "svg.fonttype": "none", "text.parse_math": False}
# No date in the file: the same numbers give the same bytes.
_DATES = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}
_TIPS = {-math.inf: "<", math.inf: ">"}


def picture(draw: Callable[[], Figure], kind: str) -> bytes:
    """The figure that is drawn, as "png", "svg" or "pdf"; a name in it stands as it is, dollars and all."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        content = io.BytesIO()
        draw().savefig(content, format=kind, dpi=150, metadata=_DATES[kind])
    return content.getvalue()


def interval(axes: Axes, y: float, ends: tuple[float, float], *, ink: str, width: float) -> None:
    """A bar from end to end; an infinite end is drawn to the limit that the axes have by then, with an arrow.

    >>> from matplotlib.figure import Figure
    >>> axes = Figure().add_subplot(xlim=(-1, 3))
    >>> interval(axes, 0, (0.5, float("inf")), ink="black", width=1)
    >>> [float(x) for x in axes.lines[0].get_xdata()]
    [0.5, 3.0]
    """
    limits = dict(zip(_TIPS, axes.get_xlim(), strict=True))
    axes.plot([limits.get(end, end) for end in ends], [y, y], color=ink, linewidth=width)
    for end in ends:
        if end in _TIPS:
            axes.plot(limits[end], y, _TIPS[end], color=ink, markersize=3.5, clip_on=False)
