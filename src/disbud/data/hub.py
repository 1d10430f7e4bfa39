"""Data sets of the Hugging Face hub, or Parquet files of the same schema, decoded once, then read offline."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from disbud.artifacts import Json, get_or_make
from disbud.data.dataset import Dataset
from disbud.data.decode import Form
from disbud.data.request import Request
from disbud.data.rows import Columns, Tables, library, read_rows
from disbud.data.settings import colours, whole
from disbud.data.store import REVISION, open_dataset, write_about, write_split
from disbud.errors import DisbudError

_TEST_FRACTION = 0.2  # drawn where the source has no test split

Files = Mapping[str, list[Path]]  # Parquet files by split


@dataclass(frozen=True)
class Wanted:
    """Which images are asked for: splits, columns, and on the hub the configuration and the revision."""

    train: str
    test: str | None
    image: str | None
    label: str | None
    config: str | None
    revision: str | None

    @property
    def splits(self) -> dict[str, str]:
        """The source's own names of the splits to read."""
        return {"train": self.train, **({} if self.test is None else {"test": self.test})}


def hub(request: Request, **settings: object) -> Dataset:
    """`hf:ORG/NAME` or `hf:./FOLDER`; `test=null` draws test images from the training split, by the seed."""
    if request.argument is None:
        raise DisbudError(
            f"{request.spec!r} names no data set; write hf:ORG/NAME, or hf:./FOLDER of Parquet files"
        )
    return _load(request, request.argument, settings)


def preset(request: Request, *, source: object, **settings: object) -> Dataset:
    """A well-known data set; `source` may name another place, such as a local folder of its Parquet files."""
    request.no_argument()
    return _load(request, _word("source", source), settings)


def _load(request: Request, source: str, settings: Mapping[str, object]) -> Dataset:
    wanted, form = _wanted(settings), _form(settings)
    files = _local_files(source, wanted) if source.startswith((".", "/", "~")) else None
    key: dict[str, Json] = {"content": "hub images", "decoder": REVISION, **asdict(form), **asdict(wanted)}
    # local files count by their content, wherever they lie
    key["source"] = source if files is None else {ours: _digests(paths) for ours, paths in files.items()}

    def make(part: Path) -> None:
        _decode_into(part, source, files, wanted, form)

    entry = get_or_make(key, make, cache=request.cache)
    return open_dataset(entry, request, test_fraction=_TEST_FRACTION)


def _wanted(settings: Mapping[str, object]) -> Wanted:
    optional = ("test", "image", "label", "config", "revision")
    words = {name: _word_or_none(name, settings[name]) for name in optional}
    return Wanted(train=_word("train", settings["train"]), **words)


def _form(settings: Mapping[str, object]) -> Form:
    size = None if settings["size"] is None else whole("size", settings["size"], low=8, high=4096)
    return Form(size, colours("channels", settings["channels"]))


def _local_files(source: str, wanted: Wanted) -> Files:
    for name, value in (("config", wanted.config), ("revision", wanted.revision)):
        if value is not None:
            raise DisbudError(f"{name}={value}: a folder of Parquet files has no {name}; leave it out")
    folder = Path(source).expanduser()
    return {ours: _parquet_files(folder, theirs) for ours, theirs in wanted.splits.items()}


def _decode_into(part: Path, source: str, files: Files | None, wanted: Wanted, form: Form) -> None:
    with ExitStack() as stack:
        if files is None:
            tables, commit = _from_hub(source, wanted)
        else:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=part))
            tables, commit = _from_files(source, files, scratch), None
        columns = Columns.find(source, tables["train"], image=wanted.image, label=wanted.label)
        for split, table in tables.items():
            write_split(part, split, len(table), read_rows(f"{source}, {split}", table, columns, form))
    write_about(part, class_names=columns.class_names, source={"name": source, "commit": commit})


def _from_hub(source: str, wanted: Wanted) -> tuple[Tables, str]:
    datasets, hub_client = library("datasets", source), library("huggingface_hub", source)
    try:
        # the commit first: what is decoded is then one state of the repository, and is known afterwards
        commit: str = hub_client.HfApi().dataset_info(source, revision=wanted.revision).sha
        found = datasets.load_dataset(source, wanted.config, revision=commit)
    except Exception as error:  # the errors of the client and of its transport have no common base
        raise DisbudError(
            f"the data set {source} could not be fetched from the hub: {type(error).__name__}: {error}; "
            "check its name, config=, revision= and the network, or name a folder of its Parquet files"
        ) from error
    for name in wanted.splits.values():
        if name not in found:
            raise DisbudError(
                f"{source} has no split {name!r}; known are {', '.join(found)}: set train= and test="
            )
    return {ours: found[name] for ours, name in wanted.splits.items()}, commit


def _from_files(source: str, files: Files, scratch: str) -> Tables:
    datasets = library("datasets", source)
    names = {ours: [str(path) for path in paths] for ours, paths in files.items()}
    try:
        tables: Tables = datasets.load_dataset("parquet", data_files=names, cache_dir=scratch)
    except Exception as error:  # as above
        cause = error.__cause__ or error
        raise DisbudError(
            f"{source}: its Parquet files cannot be read: {type(cause).__name__}: {cause}"
        ) from error
    return tables


def _parquet_files(folder: Path, split: str) -> list[Path]:
    """The Parquet files of a split, named as the hub names them: `train-00000-of-00001.parquet`."""
    pattern = re.compile(rf"{re.escape(split)}([-_.].*)?\.parquet")
    visible = (
        path for path in folder.rglob("*.parquet") if not path.relative_to(folder).as_posix().startswith(".")
    )
    found = sorted(path for path in visible if pattern.fullmatch(path.name))
    if not found:
        what = "no such folder" if not folder.is_dir() else f"no file named {split}-*.parquet in it"
        raise DisbudError(
            f"{folder}: there is {what}; name the splits by train= and test= (test=null: drawn by the seed)"
        )
    return found


def _digests(paths: list[Path]) -> list[str]:
    digests = []
    for path in paths:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests


def _word(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise DisbudError(f"{name}={value!r}: {name} is a word, as in {name}=train")
    return value


def _word_or_none(name: str, value: object) -> str | None:
    return None if value is None else _word(name, value)
