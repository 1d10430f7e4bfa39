"""The `disbud` command: its sub-commands, and how each way to end becomes an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from cyclopts import App, CycloptsError, Group, Parameter, UnusedCliTokensError

from disbud.cli import show
from disbud.cli.benching import bench
from disbud.cli.compacting import compact
from disbud.cli.comparing import compare
from disbud.cli.doctoring import doctor
from disbud.cli.exporting import export
from disbud.cli.inspecting import inspect
from disbud.cli.listing import data, methods, models
from disbud.cli.options import WorkFailed
from disbud.cli.pruning import prune
from disbud.cli.reproducing import reproduce
from disbud.cli.sanity import sanity
from disbud.cli.studying import study
from disbud.cli.theory import theory
from disbud.cli.training import train
from disbud.errors import DisbudError
from disbud.origin import package_version

app = App(
    name="disbud",
    help="Prune neural networks before they are trained, and see why that works or does not.",
    version=package_version,
    default_parameter=Parameter(negative=()),
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
_GROUPS: dict[Group, tuple[Callable[..., int] | App, ...]] = {
    Group("Work", sort_key=0): (
        prune,
        inspect,
        doctor,
        train,
        compact,
        bench,
        export,
        compare,
        sanity,
        study,
        reproduce,
        theory,
    ),
    Group("What there is", sort_key=1): (methods, models, data),
}
for _group, _commands in _GROUPS.items():
    for _command in _commands:
        if isinstance(_command, App):
            _command.group = _group
            app.command(_command)
        else:
            app.command(_command, group=_group)
app["compare"].usage = "Usage: disbud compare [OPTIONS] MODEL ENTRANT..."
app["--help"].group = app["--version"].group = Group("Help", sort_key=2)


def run(argv: Sequence[str]) -> int:
    """Run the command; errors become one line on stderr, what nobody expected keeps its traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot write "±" still gets its table
    try:
        with show.warnings_as_notes(), _importing_from_here():
            code: object = app(
                list(argv),
                console=show.console(),
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        show.error(_in_words(error) + _help_hint(argv))
        return 2
    except WorkFailed as failure:
        show.error(str(failure))
        return 1
    except DisbudError as error:
        show.error(str(error))
        return 2
    except BrokenPipeError:
        # Python flushes stdout once more when it exits; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


@contextlib.contextmanager
def _importing_from_here() -> Iterator[None]:
    """Let `module:function` name a module of the current folder, which `python -m disbud` has on its path anyway.

    It comes last: a file of the folder that is called like an installed package must not take its place.
    """
    if "" in sys.path:
        yield
        return
    sys.path.append("")
    try:
        yield
    finally:
        sys.path.remove("")


def _in_words(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError):
        return f"There is no place for {', '.join(map(repr, error.unused_tokens or ()))}."
    return " ".join(str(error).split())


def _help_hint(argv: Sequence[str]) -> str:
    known = argv and argv[0] in app and not argv[0].startswith("-")
    return f" See: disbud {argv[0]} --help" if known else " See: disbud --help"
