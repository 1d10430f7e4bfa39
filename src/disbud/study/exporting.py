"""A study as a table in a file: a row a trial."""

from __future__ import annotations

import io
import os
from pathlib import Path

from disbud.errors import DisbudError
from disbud.files import write_atomically
from disbud.study.store import Store
from disbud.study.study import Study

KINDS = (".csv", ".parquet")


def export_frame(
    study: Study, path: str | os.PathLike[str], *, store: str | os.PathLike[str] | None = None
) -> int:
    """Write what the store holds of a study, as CSV or Parquet by the file's ending; returns how many rows."""
    path = Path(path)
    if path.suffix not in KINDS:
        raise DisbudError(
            f"{path}: ends in {path.suffix or 'nothing'}; name a file that ends in {' or '.join(KINDS)}"
        )
    with Store.open(store) as kept:
        plan = study.plan(kept)
        records = kept.records(plan.trials)
    if not records:
        raise DisbudError(f"the store holds no trial of {study.name}; run it first: {study.command}")
    frame = plan.frame(records).to_pandas()
    content = io.BytesIO()
    if path.suffix == ".csv":
        frame.to_csv(content, index=False)
    else:
        try:
            frame.to_parquet(content, index=False)
        except ImportError as error:
            raise DisbudError(
                f"{path}: Parquet needs pyarrow: pip install pyarrow; or write a .csv"
            ) from error
    write_atomically(path, content.getvalue())
    return len(frame)
