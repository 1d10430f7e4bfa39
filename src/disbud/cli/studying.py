"""`disbud study`: run a study file, look at what its store holds, export it, and clear up."""

from __future__ import annotations

import fcntl
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from disbud.cli import show
from disbud.cli.options import Json, StoreFolder, check_count, check_writable
from disbud.cli.progress import Progress
from disbud.cli.reporting import FILES, Files, hand_over
from disbud.cli.verdicts import counted
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from disbud.study import Engine, Outlook, Record, Study
    from disbud.study import Progress as Doing

study = App(
    name="study",
    help="Studies: a grid of trials from a file, the claims decided on it, and a report to look at.",
)
_RUNNING = Group("How it is run", sort_key=3)
_GIBI = 1 << 30
_SECONDS_BETWEEN_LOOKS = 2.0
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
        _check_amount("--memory", self.memory, "GiB")
        _check_amount("--timeout", self.timeout, "seconds")
        if self.workers == 1 and self.memory is None and self.timeout is None:
            return InProcess()  # which can neither end a trial nor hold one back
        memory = None if self.memory is None else int(self.memory * _GIBI)
        return Pool(workers=self.workers, memory=memory, timeout=self.timeout)

    def _refuse(self, engine: str, **options: float | None) -> None:
        given = next((name for name, value in options.items() if value is not None), None)
        if given is not None:
            raise DisbudError(f"--{given} says nothing to {engine}; leave it out, or choose the other engine")


RUNNING = Running()


def _check_amount(option: str, value: float | None, unit: str) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise DisbudError(f"{option} {value:g}: should be a number of {unit} above 0")


@study.command
def run(file: File, /, *, store: StoreFolder = None, files: Files = FILES, running: Running = RUNNING) -> int:
    """Run what the store does not have, decide the claims, and write the report."""
    from disbud.study import Study

    return do(Study.load(file), store=store, files=files, running=running)


def do(work: Study, *, store: Path | None, files: Files, running: Running) -> int:
    """Run a study as `disbud study run` and `disbud reproduce` do."""
    files.check(work.name)
    engine = running.engine()
    outlook = work.outlook(store, until_decided=running.until_decided, retry_failed=running.retry_failed)
    _say_outlook(work, outlook, running)
    if running.dry_run:
        if files.json:
            show.write_json(_outlook_json(work, outlook))
        for trial in outlook.to_run if files.details and not files.json else ():
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


def _say_outlook(work: Study, outlook: Outlook, running: Running) -> None:
    todo = f"{len(outlook.to_run)} to run"
    if outlook.to_run and outlook.seconds is not None:
        todo += f", {show.duration(outlook.seconds)} of one worker's time"
    if outlook.measures:
        todo += f", {outlook.measures} measures to take"
    before = f"{outlook.done} done before, {outlook.failed} failed"
    show.say(f"{work.name}: {outlook.trials} trials, {before}, {todo}")
    for data, why in outlook.not_at_hand.items():
        show.say(f"{data} is not at hand, so none of its trials counts as done: {why}")
    for trial, why in outlook.left_out:
        show.say(f"left out: {trial.method} with {trial.intervention}, since {why}")
    if running.until_decided:
        show.say("more seeds may follow, to those trials that an undecided claim needs")


def _outlook_json(work: Study, outlook: Outlook) -> dict[str, object]:
    return {
        "study": work.name,
        "trials": outlook.trials,
        "done": outlook.done,
        "failed": outlook.failed,
        "to_run": [str(trial) for trial in outlook.to_run],
        "seconds": outlook.seconds,
        "measures": outlook.measures,
        "left_out": [{"trial": str(trial), "why": why} for trial, why in outlook.left_out],
        "not_at_hand": outlook.not_at_hand,
    }


def _told(progress: Progress) -> Callable[[Doing], None]:
    def tell(doing: Doing) -> None:
        now = "; ".join(str(trial) for trial, _ in doing.running[:2])
        failed = f", {doing.failed} failed" if doing.failed else ""
        what = f"{doing.done} of {doing.total} {doing.what}{failed}{now and ': ' + now}"
        progress.update(doing.fraction, what, left=doing.left)

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
        if not watch or (_all_done(lines) and not _is_being_written(store)):
            return 0
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _status(file: Path | None, store: Path | None) -> list[dict[str, object]]:
    from disbud.study import Store, Study

    with Store.open(store) as kept:
        if file is not None:
            work = Study.load(file)
            plan = work.plan(kept)
            return [_line(work.name, len(plan.trials), plan.known(kept).values())]
        records = {record.identity: record for record in kept.in_brief()}
        return [
            _line(name, len(known.trials), [records[each] for each in known.trials if each in records])
            for name, known in kept.studies().items()
        ]


def _all_done(lines: list[dict[str, object]]) -> bool:
    return bool(lines) and all(line["done"] + line["failed"] == line["trials"] for line in lines)  # type: ignore[operator]


def _is_being_written(store: Path | None) -> bool:
    """Whether a driver is at work: between looks all trials are done, and more are to come."""
    from disbud.study import store_folder

    try:
        with open(store_folder(store) / "driver.lock", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # none was ever there
        return False
    return False


def _line(name: str, trials: int, found: Collection[Record]) -> dict[str, object]:
    failed = sum(record.failed for record in found)
    latest = max((record.finished for record in found), default="")
    return {
        "study": name,
        "trials": trials,
        "done": len(found) - failed,
        "failed": failed,
        "latest": latest,
    }


@study.command(name="report")
def report_(file: File, /, *, store: StoreFolder = None, files: Files = FILES) -> int:
    """Decide the claims on what the store holds already, and write the report; nothing is run."""
    from disbud.study import Study

    work = Study.load(file)
    files.check(work.name)
    outlook = work.outlook(store)
    if outlook.to_run:
        show.say(
            f"{len(outlook.to_run)} of {outlook.trials} trials were not run yet; this decides on the others"
        )
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
    show.say(f"{counted(rows, 'trial')}: {output.absolute()}")
    return 0


@study.command
def gc(
    *,
    store: StoreFolder = None,
    forget: Annotated[
        tuple[str, ...],
        Parameter(help="Studies that are no longer wanted: their trials go, unless others have them."),
    ] = (),
    trial: Annotated[
        tuple[str, ...],
        Parameter(help="Trials to forget whoever wants them, by the beginning of their identity."),
    ] = (),
    kind: Annotated[
        Literal["files", "trials"],
        Parameter(
            help="files: tickets and weights that no trial names; trials: first, every trial that is of no study."
        ),
    ] = "files",
) -> int:
    """Clear up: remove what nothing refers to."""
    from disbud.study import Store

    with Store.open(store, write=True) as kept:
        known = kept.studies()
        unknown = next((name for name in forget if name not in known), None)
        if unknown is not None:
            raise DisbudError(
                f"the store knows of no study {unknown!r}; it knows {', '.join(known) or 'none'}"
            )
        gone = {kept.identity(begins) for begins in trial}
        theirs = {identity for name in forget for identity in known[name].trials}
        for name in set(forget):
            kept.forget_study(name)
        unwanted = {record.identity for record in kept.unwanted()}
        gone |= unwanted if kind == "trials" else unwanted & theirs
        kept.forget(gone)
        freed = kept.gc()
    trials, files = counted(len(gone), "trial"), counted(freed.files, "file")
    show.say(f"{trials} forgotten; {files} removed, {freed.bytes / 1e6:.1f} MB")
    return 0
