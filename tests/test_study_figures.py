"""The figures of a study for paper: vector pages two columns wide, the same each time, of odd studies as well."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest

import study_findings as made
from disbud import report
from disbud.errors import DisbudError


def test_figures_are_vector_pages_that_do_not_change(tmp_path: Path) -> None:
    large = made.large()
    before = dict(matplotlib.rcParams)
    for name in ("one.pdf", "two.pdf"):
        report.figures(large, tmp_path / name)
    first = (tmp_path / "one.pdf").read_bytes()
    assert first == (tmp_path / "two.pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b", first)) == 4  # accuracy, interventions, claims, paths
    assert b"/Subtype /Image" not in first
    widths = {round(float(box.split()[2]), 1) for box in re.findall(rb"/MediaBox \[([^\]]*)\]", first)}
    assert widths == {round(6.9 * 72, 1)}
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", sorted(made.ODD))
def test_figures_of_odd_studies(name: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.pdf"
    if name == "all_failed":
        with pytest.raises(DisbudError, match="nothing to draw"):
            report.figures(made.ODD[name](), path)
        assert not path.exists()
    else:
        report.figures(made.ODD[name](), path)
        assert path.read_bytes().startswith(b"%PDF-")
