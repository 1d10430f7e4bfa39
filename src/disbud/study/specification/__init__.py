"""Study files: what may stand in one, and the trials that it asks for."""

from disbud.study.specification.forms import StudyForm
from disbud.study.specification.grid import Grid, grid_of, seeds_of
from disbud.study.specification.reading import read_study, study_of
from disbud.study.specification.writing import as_toml

__all__ = ["Grid", "StudyForm", "as_toml", "grid_of", "read_study", "seeds_of", "study_of"]
