"""The command line as a process: Ctrl-C, a reader that goes away, a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
DISBUD = (sys.executable, "-m", "disbud")


def heeding_interrupts() -> None:
    """A test run in the background ignores Ctrl-C, and its children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(
    folder: Path, *argv: str, once: Path | None = None, seen: bytes = b""
) -> tuple[int, str, str]:
    """Start a command, press Ctrl-C once a file exists, and return its code, stdout and stderr."""
    process = subprocess.Popen(
        [*DISBUD, *argv],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeding_interrupts,
    )
    deadline = time.monotonic() + 60
    while once is not None and not once.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_ctrl_c_ends_training_quietly_and_leaves_no_half_written_file(tmp_path: Path) -> None:
    command = ("train", "lenet-300-100", "--recipe", "digits:epochs=100000", "--out", "w.safetensors")
    code, out, err = interrupted(tmp_path, *command, "--checkpoint", "run.pt", once=tmp_path / "run.pt")
    assert code == 130
    assert out == ""
    assert "Traceback" not in err
    assert err.endswith("disbud: stopped\n")
    assert os.listdir(tmp_path) == ["run.pt"]
    import torch

    assert torch.load(tmp_path / "run.pt", weights_only=True)["position"]["epoch"] >= 1


def test_ctrl_c_in_a_comparison_still_shows_what_was_done(tmp_path: Path) -> None:
    (tmp_path / "slow_network.py").write_text(
        "import pathlib\n"
        "from torch import nn\n"
        "def net():\n"
        "    if pathlib.Path('first').exists():\n"
        "        pathlib.Path('second').touch()\n"
        "    pathlib.Path('first').touch()\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    command = (
        "compare",
        "slow_network:net",
        "magnitude",
        "--sparsity",
        "0.5",
        "--train",
        "digits:epochs=100000",
    )
    code, out, err = interrupted(tmp_path, *command, once=tmp_path / "second")
    assert code == 130
    assert "Traceback" not in err
    assert "slow_network:net" in out


def test_every_command_finds_functions_of_the_current_folder(tmp_path: Path) -> None:
    """As the installed `disbud`, whose path has no current folder: -P leaves it out."""
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))\n"
        "def score(model, batches):\n"
        "    return {name: p.detach().abs() for name, p in model.named_parameters() if p.dim() > 1}\n"
    )
    (tmp_path / "torch.py").write_text("raise ImportError('not this one')\n")
    (tmp_path / "study.toml").write_text(
        'name = "mine"\ndata = "digits"\nmodel = "mine:net"\nrecipe = "digits:epochs=1"\nmethods = "mine:score"\n'
        "sparsities = 0.9\nseeds = 2\ncontrols = false\n"
    )
    commands = (
        ["prune", "mine:net", "--method", "magnitude", "--sparsity", "0.9", "--out", "t.ticket.safetensors"],
        ["doctor", "mine:net", "--data", "digits", "--sparsity", "0.9", "--methods", "magnitude"],
        ["study", "run", "study.toml", "--store", "store", "--workers", "2"],
        ["study", "status", "study.toml", "--store", "store"],
    )
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "disbud", *command], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, (command, done.stderr)


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen([*DISBUD, "methods"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_on_a_terminal_a_bar_shows_the_time_left(tmp_path: Path) -> None:
    shown = b""

    def read(descriptor: int) -> bytes:
        nonlocal shown
        content = os.read(descriptor, 4096)
        shown += content
        return content

    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    program = (
        f"import os, sys; os.chdir({str(tmp_path)!r})\n"
        f"os.execve(sys.executable, {[*DISBUD, 'train', 'lenet-300-100', '--recipe', 'digits:epochs=60']!r},\n"
        f"          {environment | {'TERM': 'xterm-256color', 'COLUMNS': '100'}!r})"
    )
    status = pty.spawn([sys.executable, "-c", program], read)
    assert os.waitstatus_to_exitcode(status) == 0
    text = shown.decode()
    assert "━" in text
    assert "left" in text
    assert "epoch 60 of 60" in text
    assert "test accuracy" in text
