"""Reading report pages back in tests: the data their script draws from, and their words."""

from __future__ import annotations

import json
import re

from torch import nn

import disbud
from disbud.models import build
from disbud.report import Page

Rows = list[dict[str, object]]


def content(page: Page) -> dict[str, list[dict[str, object]]]:
    """The data the page's script draws from."""
    (found,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', page.html, re.DOTALL)
    return json.loads(found)


def rows_of(page: Page, chart: int) -> Rows:
    """All rows of the data in one of the page's wide charts."""
    template = content(page)["templates"][chart]
    return [row for data in template["datasets"].values() for row in data]


def cells_of(page: Page, template: int) -> list[dict[str, list[float]]]:
    """The numbers of each small chart of one kind."""
    return [p["columns"] for p in content(page)["places"] if p["template"] == template and "columns" in p]


def words_of(page: Page) -> str:
    """What the page says, without its tags and scripts."""
    text = re.sub(r"<(script|style).*?</\1>", "", page.html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", text)).replace("\u00a0", " ")


def lenet() -> tuple[nn.Module, disbud.Ticket]:
    model = build("lenet-300-100", input_shape=(1, 8, 8), seed=1)
    return model, disbud.prune(model, "magnitude", sparsity=0.95)
