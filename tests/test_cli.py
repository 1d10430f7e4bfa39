"""The command line as such: help, mistakes and what they are answered with, JSON, notes, plain output."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from disbud.cli import main, progress, show
from disbud.cli.progress import Progress

ESCAPE = "\x1b"
HEAVY = ("torch", "sklearn", "numpy", "scipy", "safetensors")


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python process whose output goes to pipes, in the environment of a terminal that can do colours."""
    plain = {
        key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")
    }
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=plain | {"TERM": "xterm-256color"} | environment,
    )


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr that a command ends with, exit code 2 and nothing on stdout."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_help_and_lists_import_neither_torch_nor_any_other_heavy_library() -> None:
    program = (
        "import sys; from disbud.cli import main\n"
        "for line in ('', '--help', 'methods', 'methods snip', 'methods --interventions', 'data', 'methods --json',\n"
        "             'data --json', 'prune --help', 'inspect --help', 'train --help', 'compare --help'):\n"
        "    assert main(line.split()) == 0, line\n"
        f"    loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "    assert not loaded, (line, loaded)\n"
    )
    done = python("-c", program)
    assert done.stderr == ""
    assert done.returncode == 0


def test_help_names_every_command_and_the_module_runs_too() -> None:
    done = python("-m", "disbud", "--help")
    assert done.returncode == 0
    for command in ("prune", "inspect", "train", "compare", "methods", "models", "data"):
        assert f" {command} " in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import disbud

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{disbud.__version__}\n"


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("prnue resnet20", 'Did you mean "prune"'),
        ("prune resnet20 --sparsty 0.9", "--sparsity"),
        ("prune resnet20 --method synflo --sparsity 0.9", "did you mean 'synflow'"),
        ("prune resnet21 --sparsity 0.9", "'resnet20'"),
        ("prune resnet20:widht=2 --sparsity 0.9", "did you mean 'width'"),
        ("prune resnet20 --sparsity 0.9 --data digts", "did you mean 'digits'"),
        ("prune lenet-5 --sparsity 0.9 --densities erkk", "'erk'"),
        (
            "prune lenet-5 --sparsity 0.9 --method grasp --data digits --set tempreature=1",
            "did you mean 'temperature'",
        ),
        ("train lenet-300-100 --recipe digit", "did you mean 'digits'"),
        ("train lenet-300-100 --recipe digits:epoch=3", "did you mean 'epochs'"),
        ("compare lenet-300-100 dnse", "did you mean 'dense'"),
        ("compare lenet-300-100 synflow:round=3 --sparsity 0.9", "did you mean 'rounds'"),
        ("methods grap", "did you mean 'grasp'"),
        ("models vgg16bn", "'vgg16-bn'"),
        ("data cifar1O", "'cifar10'"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_one_meant(
    capsys: pytest.CaptureFixture[str], line: str, meant: str
) -> None:
    assert meant in refused(capsys, *line.split())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prune", "MODEL"),
        ("prune lenet-300-100 --sparsity much", '"much"'),
        ("prune lenet-300-100 --sparsity 0.9 twice", "no place for 'twice'"),
        ("prune lenet-300-100 --sparsity 0.9 --keep best", "highest"),
        ("prune lenet-300-100", "give --sparsity"),
        ("prune lenet-300-100 --sparsity 98", "above 1"),
        ("prune lenet-300-100 --sparsity 0.9 --method snip", "give --data"),
        ("prune lenet-300-100 --sparsity 0.9 --method random-like", "give --densities"),
        ("prune lenet-300-100 --sparsity 0.9 --input-shape 3by3", "3x32x32"),
        ("prune lenet-300-100 --sparsity 0.9 --data digits --classes 7", "leave the option out"),
        ("prune lenet-300-100 --sparsity 0.9 --examples-per-class some", "or all"),
        ("prune lenet-300-100 --sparsity 0.9 --set rounds", "key=value"),
        ("prune lenet-300-100 --sparsity 0.9 --set sparsity=0.3", "no setting"),
        ("prune lenet-300-100 --sparsity 0.9 --threads 0", "--threads 0"),
        ("prune lenet-300-100 --sparsity 0.9 --out nowhere/a.safetensors", "no folder nowhere"),
        ("prune lenet-300-100 --sparsity 0.9 --out .", "is a folder"),
        ("prune no_such_module:net --sparsity 0.9", "no_such_module"),
        ("prune torch.nn:Linear,in_features=5,out_features=2 --sparsity 0.9", "give --input-shape"),
        (
            "prune torch.nn:Linear,in_features=5,out_features=2 --sparsity 0.9 --input-shape 7",
            "does not take",
        ),
        ("inspect nowhere.ticket.safetensors", "no such file"),
        ("train lenet-300-100 --checkpoint nowhere/run", "no folder nowhere"),
        ("train lenet-300-100 --weights nowhere.safetensors", "no such file"),
        ("compare lenet-300-100", "name what is to be compared"),
        ("compare lenet-300-100 dense dense", "twice"),
        ("compare lenet-300-100 magnitude", "give --sparsity"),
        ("compare lenet-300-100 dense --sparsity 0.9", "for methods"),
        ("compare lenet-300-100 dense --seeds 0", "--seeds 0"),
        ("compare lenet-300-100 snip --sparsity 0.9", "give --data"),
        ("models --classes 3", "name the model"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    said: str,
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert said in refused(capsys, *line.split())
    assert os.listdir(str(tmp_path)) == []


def test_an_error_nobody_expected_keeps_its_traceback() -> None:
    done = python("-m", "disbud", "prune", "builtins:open,file=nowhere", "--sparsity", "0.9")
    assert "Traceback" in done.stderr
    assert "FileNotFoundError" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    "line", ["methods", "methods grasp", "models", "models resnet20", "data", "data digits"]
)
def test_lists_as_json(capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert main([*line.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_lists_name_everything_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    from disbud.data.catalogue import CATALOGUE as DATA
    from disbud.methods.catalogue import CATALOGUE as METHODS
    from disbud.models.catalogue import CATALOGUE as MODELS

    for command, catalogue in (("methods", METHODS), ("models", MODELS), ("data", DATA)):
        assert main([command]) == 0
        first_words = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
        assert first_words >= catalogue.keys()


@pytest.mark.parametrize("columns", ["80", "140"])
@pytest.mark.parametrize("command", ["methods", "models", "data", "--help", "prune --help"])
def test_tables_stay_within_the_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(command.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert not any("…" in line for line in lines)


def test_one_method_is_shown_with_its_settings_and_a_usage_that_works(
    capsys: pytest.CaptureFixture[str], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert main(["methods", "grasp"]) == 0
    shown = capsys.readouterr().out
    assert "temperature=200" in shown
    assert "Wang et al. 2020" in shown
    (usage,) = [line.split("disbud ")[1] for line in shown.splitlines() if "disbud prune" in line]
    assert main(usage.replace("resnet20", "resnet20:width=0.25").split()) == 0


def test_one_model_is_counted_at_the_input_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "lenet-300-100"]) == 0
    assert "266,610, of which 266,200" in capsys.readouterr().out
    assert main(["models", "lenet-300-100", "--input-shape", "1x8x8", "--classes", "5"]) == 0
    assert f"{64 * 300 + 300 * 100 + 100 * 5:,} weights" in capsys.readouterr().out


def test_a_data_set_is_loaded_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    import disbud

    assert main(["data", "digits"]) == 0
    shown = capsys.readouterr().out
    digits = disbud.data.load("digits")
    assert f"{len(digits.train.labels):,} to train on" in shown
    assert digits.fingerprint in shown


def test_output_that_is_no_terminal_has_no_control_codes() -> None:
    for line in ("methods", "prune", "train lenet-300-100 --recipe digits:epochs=2"):
        done = python("-m", "disbud", *line.split())
        assert done.stdout + done.stderr
        assert ESCAPE not in done.stdout + done.stderr
        assert "\r" not in done.stdout + done.stderr


def test_colours_on_a_terminal_but_not_where_no_color_is_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR")
    assert main(["prune", "lenet-5"]) == 2
    assert f"{ESCAPE}[1;31merror" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["prune", "lenet-5"]) == 2
    assert f"{ESCAPE}[1;31m" not in capsys.readouterr().err


def test_warnings_are_notes_without_the_line_of_source(
    capsys: pytest.CaptureFixture[str], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert main(["prune", "lenet-300-100", "--method", "magnitude", "--sparsity", "0.05"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("note: ")
    assert "sparsity=0.95" in err
    assert ".py" not in err
    assert err.count("\n") == 1


def test_progress_off_a_terminal_is_whole_lines_some_seconds_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress() as told:
        for fraction in (0.0, 0.25, 0.3, 0.5):
            told.update(fraction, f"at {fraction}")
    assert capsys.readouterr().err.splitlines() == [
        "25% done, 6.0 s gone, 18 s left: at 0.25",
        "50% done, 12 s gone, 12 s left: at 0.5",
    ]


def test_progress_that_begins_midway_tells_the_time_left_from_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress() as told:
        told.update(0.5, "going on")
        told.update(0.75, "going on")
    assert "10 s left" in capsys.readouterr().err


def test_numbers_are_written_for_people() -> None:
    assert show.percents([1.0, 0.125, None, 0.0]) == ["100.00%", "12.50%", "-", "0.00%"]
    assert show.percents([0.5, 0.000033]) == ["50.0000%", "0.0033%"]
    seconds = (0.0, 0.08, 4.2, 35.2, 200, 7500)
    assert [show.duration(s) for s in seconds] == [
        "0.0 s",
        "80 ms",
        "4.2 s",
        "35 s",
        "3 min 20 s",
        "2 h 5 min",
    ]


def test_columns_are_cut_into_blocks_that_fit() -> None:
    assert show.blocks([4, 4, 4, 20, 4], 9) == [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]
    assert show.blocks([4, 4], 80) == [range(0, 2)]
    assert show.blocks([], 80) == []


def test_interventions_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from disbud.interventions import CATALOGUE

    assert main(["methods", "--interventions", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == list(CATALOGUE)
    assert main(["methods", "--interventions", "reinit"]) == 0
    assert "shuffle" not in capsys.readouterr().out
    assert main(["methods", "--interventions", "shufle"]) == 2
    assert "did you mean 'shuffle'" in capsys.readouterr().err
