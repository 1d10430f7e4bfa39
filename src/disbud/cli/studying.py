"""`disbud study`: run a study file, look at what its store holds, export it, and clear up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from disbud.cli import show
from disbud.cli.options import Json, StoreFolder, check_count, check_writable
from disbud.cli.progress import Progress
from disbud.cli.reporting import FILES, Files, hand_over
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from disbud.study import Engine, Study
    from disbud.study import Progress as Doing

study = App(
    name="study",
    help="Studies: a grid of trials from a file, the claims decided on it, and a report to look at.",
)
_RUNNING = Group("How it is run", sort_key=3)
_GIBI = 1 << 30
File = Annotated[Path, Parameter(help="The study file (TOML).")]


@Parameter(name="*")
@dataclass(frozen=True)
class Running:
    """How a study is run."""

    workers: Annotated[
        int | None, Parameter(group=_RUNNING, help="Processes; as many as cores unless said.")
    ] = None
    memory: Annotated[
        float | None,
        Parameter(group=_RUNNING, help="GiB that all workers together may hold, as far as is known before."),
    ] = None
    timeout: Annotated[
        float | None,
        Parameter(group=_RUNNING, help="Seconds after which a trial counts as hung and is run again."),
    ] = None
    until_decided: Annotated[
        bool,
        Parameter(
            group=_RUNNING, show_default=False, help="Add seeds, up to 30, where a claim is undecided."
        ),
    ] = False
    retry_failed: Annotated[
        bool, Parameter(group=_RUNNING, show_default=False, help="Run trials again that failed before.")
    ] = False
    dry_run: Annotated[
        bool,
        Parameter(
            group=_RUNNING,
            show_default=False,
            help="Say what would be run and how long it may take; run nothing.",
        ),
    ] = False

    where: Annotated[
        Literal["here", "ray"],
        Parameter(
            name="--engine", group=_RUNNING,
            help="here: processes of this machine; ray: tasks of the cluster at $RAY_ADDRESS, else of one of its own.",
        ),
    ] = "here"  # fmt: skip
    cpus: Annotated[float | None, Parameter(group=_RUNNING, help="CPUs that a Ray task takes; else 1.")] = (
        None
    )
    gpus: Annotated[float | None, Parameter(group=_RUNNING, help="GPUs that a Ray task takes, as 0.25.")] = (
        None
    )

    def engine(self) -> Engine:
        """What runs the trials."""
        from disbud.study import InProcess, Pool, Ray

        if self.where == "ray":
            self._refuse("--engine ray", workers=self.workers, memory=self.memory, timeout=self.timeout)
            return Ray(cpus=1 if self.cpus is None else self.cpus, gpus=self.gpus or 0)
        self._refuse("the processes of this machine", cpus=self.cpus, gpus=self.gpus)
        if self.workers is not None:
            check_count("--workers", self.workers)
        if self.workers == 1:
            return InProcess()
        memory = None if self.memory is None else int(self.memory * _GIBI)
        return Pool(workers=self.workers, memory=memory, timeout=self.timeout)

    def _refuse(self, engine: str, **options: float | None) -> None:
        given = next((name for name, value in options.items() if value is not None), None)
        if given is not None:
            raise DisbudError(f"--{given} says nothing to {engine}; leave it out, or choose the other engine")


RUNNING = Running()


@study.command
def run(file: File, /, *, store: StoreFolder = None, files: Files = FILES, running: Running = RUNNING) -> int:
    """Run what the store does not have, decide the claims, and write the report."""
    from disbud.study import Study

    return do(Study.load(file), store=store, files=files, running=running)


def do(work: Study, *, store: Path | None, files: Files, running: Running) -> int:
    """Run a study as `disbud study run` and `disbud reproduce` do."""
    files.check(work.name)
    engine = running.engine()
    outlook = work.outlook(store)
    todo = outlook.trials - outlook.done - (0 if running.retry_failed else outlook.failed)
    left = (
        ""
        if outlook.seconds is None or not todo
        else f", {show.duration(outlook.seconds)} of one worker's time"
    )
    before = f"{outlook.done} done before, {outlook.failed} failed"
    show.say(f"{work.name}: {outlook.trials} trials, {before}, {todo} to run{left}")
    for trial, why in outlook.left_out:
        show.say(f"left out: {trial.method} with {trial.intervention}, since {why}")
    if running.dry_run:
        for trial in work.trials() if files.details else ():
            show.write(str(trial))
        return 0
    began = time.perf_counter()
    with Progress() as progress:
        findings = work.run(
            store=store, engine=engine, until_decided=running.until_decided,
            retry_failed=running.retry_failed, tell=_told(progress),
        )  # fmt: skip
    show.say(f"{show.duration(time.perf_counter() - began)} gone")
    return hand_over(findings, work.name, files, store=store)


def _told(progress: Progress) -> Callable[[Doing], None]:
    def tell(doing: Doing) -> None:
        now = ", ".join(str(trial) for trial, _ in doing.running[:2])
        failed = f", {doing.failed} failed" if doing.failed else ""
        progress.update(
            doing.fraction, f"{doing.done} of {doing.total} {doing.what}{failed}{now and ': ' + now}"
        )

    return tell


@study.command
def status(
    file: Annotated[
        Path | None, Parameter(help="A study file; without one, every study that the store was told of.")
    ] = None,
    /,
    *,
    store: StoreFolder = None,
    watch: Annotated[
        bool, Parameter(show_default=False, help="Show it again every two seconds, until all is done.")
    ] = False,
    json: Json = False,
) -> int:
    """Show how far studies are; may be asked while one runs."""
    while True:
        lines = _status(file, store)
        if json:
            show.write_json(lines)
            return 0
        table = show.table("study", "trials", "done", "failed", "latest", right=("trials", "done", "failed"))
        for line in lines:
            table.add_row(*(str(value) for value in line.values()))
        show.write(table if lines else "the store knows of no study")
        if not watch or all(line["done"] + line["failed"] == line["trials"] for line in lines):  # type: ignore[operator]
            return 0
        time.sleep(2)


def _status(file: Path | None, store: Path | None) -> list[dict[str, object]]:
    from disbud.study import Store, Study

    with Store.open(store) as kept:
        records = {record.identity: record for record in kept.all()}
        if file is not None:
            work = Study.load(file)
            asked = {work.name: [identity for identity in _identities(work)]}
        else:
            asked = {name: list(known.trials) for name, known in kept.studies().items()}
    lines: list[dict[str, object]] = []
    for name, identities in asked.items():
        found = [records[identity] for identity in identities if identity in records]
        failed = sum(record.failed for record in found)
        latest = max((record.finished for record in found), default="")
        lines.append(
            {
                "study": name,
                "trials": len(identities),
                "done": len(found) - failed,
                "failed": failed,
                "latest": latest,
            }
        )
    return lines


def _identities(work: Study) -> Sequence[str]:
    from disbud.study import identity_of

    return [identity_of(trial) for trial in work.trials()]


@study.command(name="report")
def report_(file: File, /, *, store: StoreFolder = None, files: Files = FILES) -> int:
    """Decide the claims on what the store holds already, and write the report; nothing is run."""
    from disbud.study import Study

    work = Study.load(file)
    files.check(work.name)
    return hand_over(work.findings(store), work.name, files, store=store)


@study.command
def export(
    file: File,
    /,
    *,
    store: StoreFolder = None,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="A .csv or .parquet file; else NAME.csv.")
    ] = None,
) -> int:
    """Write a row for each trial: its settings, its seeds, its numbers, what was measured."""
    from disbud.study import Study
    from disbud.study.exporting import export_frame

    work = Study.load(file)
    output = output or Path(f"{work.name}.csv")
    check_writable("--output", output)
    rows = export_frame(work, output, store=store)
    show.say(f"{rows} trials: {output.absolute()}")
    return 0


@study.command
def gc(
    *,
    store: StoreFolder = None,
    forget: Annotated[
        tuple[str, ...],
        Parameter(help="Studies that are no longer wanted: their trials go, unless others have them."),
    ] = (),
    kind: Annotated[
        Literal["files", "trials"],
        Parameter(
            help="files: only tickets and weights that no trial names; trials: trials of no study, too."
        ),
    ] = "files",
) -> int:
    """Clear up: remove what nothing refers to."""
    from disbud.study import Store

    with Store.open(store, write=True) as kept:
        known = kept.studies()
        for name in forget:
            if name not in known:
                raise DisbudError(
                    f"the store knows of no study {name!r}; it knows {', '.join(known) or 'none'}"
                )
            kept.forget_study(name)
        gone = kept.unwanted() if kind == "trials" else []
        kept.forget(gone)
        freed = kept.gc()
    show.say(f"{len(gone)} trials forgotten; {freed.files} files removed, {freed.bytes / 1e6:.1f} MB")
    return 0
