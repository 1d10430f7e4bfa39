"""What report pages are made of: pictures of masks, numbers in words, escaping."""

from __future__ import annotations

import itertools
import json
import struct
import zlib

import numpy
import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import report
from disbud.report.markup import Html, in_script, tag
from disbud.report.pictures import density_png, local_densities
from disbud.report.words import names, percent
from pages import words_of

# Pictures


def brute(mask: Tensor, side: int) -> list[list[float]]:
    """Each bin's density, weight by weight; bin i of b over n slices begins at slice floor(i n / b)."""
    rows, columns = min(side, mask.shape[0]), min(side, mask.shape[1])
    cuts = [[i * n // b for i in range(b + 1)] for n, b in zip(mask.shape[:2], (rows, columns), strict=True)]
    return [
        [float(mask[top:bottom, left:right].float().mean()) for left, right in itertools.pairwise(cuts[1])]
        for top, bottom in itertools.pairwise(cuts[0])
    ]


@pytest.mark.parametrize("shape", [(3, 5), (64, 96), (97, 10), (1, 200), (11, 7, 3, 3), (130, 40, 2)])
def test_a_picture_holds_the_density_of_every_bin(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.7
    assert local_densities(mask, 12) == pytest.approx(numpy.array(brute(mask, 12)))


def test_a_png_is_clear_where_nothing_is_kept_and_full_where_most_is() -> None:
    densities = numpy.array([[0.0, 1e-6, 0.25], [0.5, 1.0, 0.0]])
    png = density_png(densities)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        chunks[kind] = png[at + 8 : at + 8 + size]
        assert struct.unpack(">I", png[at + 8 + size : at + 12 + size])[0] == zlib.crc32(
            png[at + 4 : at + 8 + size]
        )
        at += 12 + size
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (3, 2)
    raw = zlib.decompress(chunks[b"IDAT"])
    opacity = [[chunks[b"tRNS"][raw[4 * y + 1 + x]] for x in range(3)] for y in range(2)]
    assert opacity[0][0] == opacity[1][2] == 0
    assert 0 < opacity[0][1] < opacity[0][2] < opacity[1][0] < opacity[1][1] == 255


def test_a_transposed_convolution_is_drawn_with_its_outputs_down() -> None:
    model = nn.ConvTranspose2d(2, 5, 3)
    ticket = disbud.Ticket.from_masks({"weight": torch.ones(2, 5, 3, 3)})
    assert "5 × 2; most" in words_of(report.ticket(ticket, model=model))  # noqa: RUF001


# Words


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [(0, "0"), (1, "100"), (0.5, "50"), (0.98, "98"), (0.9999, "99.99"), (0.999999, "99.9999"), (0.0002, "0.02"),
     (0.00021, "0.021"), (1e-9, "0.0000001"), (0.12345, "12.35")],
)  # fmt: skip
def test_a_percentage_never_rounds_to_nothing_or_to_all(fraction: float, shown: str) -> None:
    assert percent(fraction) == f"{shown}\u00a0%"


def test_many_names_are_counted_and_all_are_escaped() -> None:
    assert names(["a", "b", "c", "d", "e", "f"]).endswith("</code> and 2 more")
    assert "<script>" not in names(["<script>"])


def test_text_is_escaped_unless_it_is_html() -> None:
    assert tag("p", '<b>"', title='"><i>') == '<p title="&quot;&gt;&lt;i&gt;">&lt;b&gt;&quot;</p>'
    assert tag("p", Html("<b></b>")) == "<p><b></b></p>"
    text = json.dumps({"<!--": "</script>\u2028&"}, ensure_ascii=False)
    assert not set("<>&\u2028") & set(in_script(text))
    assert json.loads(in_script(text)) == {"<!--": "</script>\u2028&"}
