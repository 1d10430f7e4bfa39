"""Pages to look at: self-contained HTML that any browser shows without a network."""

from disbud.report.page import Page
from disbud.report.study_figures import figures
from disbud.report.study_page import study
from disbud.report.ticket_page import ticket

__all__ = ["Page", "figures", "study", "ticket"]
