"""Building the kernels: once among processes, without a compiler, with a broken one, and under the sanitisers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from disbud.errors import DisbudError
from disbud.kernels.build import INSTRUCTIONS, Compiler, build, find_compiler, usable_instructions
from disbud.kernels.library import Library, team_of_torch

LAYER = """
import torch
from disbud.kernels import Pattern, pack, sparse_layer, unpack
torch.set_num_threads(1)
weight = torch.randn(8, 4, 3, 3)
x = torch.randn(5, 4, 6, 6)
pattern = Pattern.of_convolution(weight.abs() > 1, padding=1)
y = unpack(sparse_layer(pack(x), pattern.gather(weight), pattern))
assert torch.allclose(y, torch.nn.functional.conv2d(x, pattern.scatter(pattern.gather(weight)), padding=1), atol=1e-5)
print("computed")
"""

# Every kernel, forward and back, on the shapes that reach furthest; then one write where no memory is.
SANITIZED = """
import random, sys
from unittest import mock
import torch
from disbud import kernels as k
from disbud.kernels.build import SANITIZE, STORAGE, build, find_compiler, flags_of_storage
from disbud.kernels.library import Library
torch.set_num_threads(2)
libraries = {}
for stored in STORAGE:
    extra = (*SANITIZE, *flags_of_storage(sys.argv[1], stored))
    libraries[stored] = Library(sys.argv[1], build(sys.argv[1], find_compiler(), extra=extra), stored)
rng = random.Random(0)
for module in ("convolution", "normalisation", "pooling"):
    mock.patch(f"disbud.kernels.{module}.library", lambda stored: libraries[stored]).start()
for case in range(40):
    stored = (torch.float32, torch.bfloat16)[case % 2]
    groups, stride, padding, dilation = rng.choice((1, 2)), rng.randint(1, 3), rng.randint(0, 3), rng.randint(1, 2)
    kernel = rng.randint(1, 4)
    size = [max(2, dilation * (kernel - 1) + 1 - 2 * padding) + rng.randint(0, 18) for _ in "hw"]
    channels, outputs = groups * rng.randint(1, 40), groups * rng.randint(1, 9)
    mask = torch.rand(outputs, channels // groups, kernel, kernel) < rng.choice((0.0, 0.1, 1.0))
    x = torch.randn(rng.choice((1, 17, 40, 130)), channels, *size, requires_grad=True)
    conv = k.Pattern.of_convolution(mask, stride=stride, padding=padding, dilation=dilation, groups=groups)
    values, bias = torch.randn(conv.kept, requires_grad=True), torch.randn(outputs, requires_grad=True)
    packed = k.pack(x, halo=rng.randint(0, 2), stored=stored)
    y, packed = k.sparse_branch(packed, values, conv, bias=bias)
    packed.data.float().sum().backward(retain_graph=True)
    with torch.no_grad():
        k.folded_layer(packed, values, conv, scale=bias, shift=bias, slope=0.0, added=y, halo=case % 3)
    height, width = y.layout.height, y.layout.width
    if len(x) * height * width > 1:
        gamma, beta = torch.ones(outputs, requires_grad=True), torch.zeros(outputs, requires_grad=True)
        y = k.batch_norm(y, gamma, beta, statistics=None, slope=0.0, halo=rng.randint(0, 2), added=y)
        y = k.batch_norm(y, gamma, beta, statistics=None, slope=0.0, pool=min(2, height, width), halo=case % 3)
    height, width = y.layout.height, y.layout.width
    windows = (k.sliding_windows(height, min(3, height), stride=2), k.sliding_windows(width, min(2, width), stride=1))
    y = (k.max_pool if case % 2 else k.average_pool)(y, windows, halo=case % 2)
    linear = k.Pattern.of_linear(torch.rand(7, y.layout.features) < 0.3)
    y = k.sparse_layer(y, torch.randn(linear.kept, requires_grad=True), linear)
    k.unpack_features(y).sum().backward()
print("clean")
sys.stdout.flush()
libraries[torch.float32].clear_halo(k.Layout(1, 8, 5, 5, 1), torch.empty(64))
print("not noticed")
"""


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def counting_compiler(folder: Path, *, broken: bool = False) -> tuple[Path, Path]:
    """A compiler that notes each compilation, takes its time over it, and may fail; and where it notes them."""
    compiler, log = folder / "counting-cc", folder / "compilations"
    work = "echo 'no such flag' >&2; exit 1" if broken else f'sleep 1; exec {shutil.which("cc")} "$@"'
    compiler.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo counting 1.0; exit; fi\necho made >> {log}\n{work}\n'
    )
    compiler.chmod(0o755)
    return compiler, log


def test_processes_that_build_at_once_compile_once(tmp_path: Path) -> None:
    compiler, log = counting_compiler(tmp_path)
    environment = {**os.environ, "CC": str(compiler), "DISBUD_CACHE": str(tmp_path / "cache")}
    started = [
        subprocess.Popen([sys.executable, "-c", LAYER], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0] for process in started] == ["computed\n"] * 2
    assert log.read_text() == "made\n"


def test_without_a_compiler_layers_run_in_torch_after_one_notice(tmp_path: Path) -> None:
    environment = {
        "PATH": str(tmp_path),
        "CC": "",
        "DISBUD_KERNELS": "",
        "DISBUD_CACHE": str(tmp_path / "cache"),
    }
    done = run(LAYER, **environment)
    assert done.stdout == "computed\n", done.stderr
    assert done.stderr.count("no C compiler was found") == 1
    assert "install gcc or clang" in done.stderr
    assert run(LAYER, **{**environment, "DISBUD_KERNELS": "torch"}).stderr == ""


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(counting_compiler(tmp_path, broken=True)[0]))
    compiler = find_compiler()
    assert compiler is not None
    assert compiler.version == "counting 1.0"
    with pytest.raises(DisbudError, match=r"(?s)CC=COMPILER.*no such flag"):
        build("plain", compiler, cache=tmp_path / "cache")


def test_a_compiler_that_is_named_is_not_replaced_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert find_compiler() is None


def test_a_compiler_may_be_named_with_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    path, _ = counting_compiler(folder)
    monkeypatch.setenv("CC", str(path))  # one word, that no shell would take for one
    alone = find_compiler()
    monkeypatch.setenv("CC", f"'{path}' -O2 -DONE='a b'")
    with_arguments = find_compiler()
    assert alone is not None
    assert with_arguments is not None
    assert alone.command == [str(path)]
    assert with_arguments.command == [str(path), "-O2", "-DONE=a b"]
    cc = shutil.which("cc")
    assert cc is not None
    monkeypatch.setenv("CC", f"env LC_ALL=C {cc}")
    through = find_compiler()
    plain = Compiler(cc, "1")
    assert through is not None
    assert through.command[1:] == ["LC_ALL=C", cc]
    builds = [build("plain", compiler, cache=tmp_path / "cache") for compiler in (plain, through)]
    assert builds[0] != builds[1]
    assert all(Library("plain", path).instructions == "plain" for path in builds)
    monkeypatch.setenv("CC", "gcc '-O2")
    with pytest.raises(DisbudError, match="CC=gcc '-O2 is no command"):
        find_compiler()


def test_kernels_that_cannot_be_loaded_name_the_way_out(tmp_path: Path) -> None:
    damaged = tmp_path / "kernels.so"
    damaged.write_bytes(b"no library")
    with pytest.raises(DisbudError, match=r"(?s)kernels\.so.*DISBUD_CACHE=FOLDER.*DISBUD_KERNELS=torch"):
        Library("plain", damaged)


def test_each_instruction_set_and_compiler_has_its_own_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = find_compiler()
    monkeypatch.setenv("CC", str(counting_compiler(tmp_path)[0]))
    other = find_compiler()
    assert here is not None
    assert other is not None
    builds = [build("plain", here, cache=tmp_path), build("plain", other, cache=tmp_path)]
    assert len({*builds, build("plain", here, cache=tmp_path, extra=("-g",))}) == 3
    assert build("plain", here, cache=tmp_path) == builds[0]


def test_every_usable_set_of_instructions_is_known() -> None:
    assert set(usable_instructions()) <= set(INSTRUCTIONS)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the sanitisers are preloaded as Linux does it")
@pytest.mark.parametrize("instructions", usable_instructions())
def test_the_sanitisers_find_nothing_but_what_is_planted(instructions: str) -> None:
    compiler = find_compiler()
    assert compiler is not None
    asan = subprocess.run(
        [compiler.path, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(asan).is_file():
        pytest.skip("this compiler has no address sanitiser")
    environment = {"LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0"}
    done = run(SANITIZED, instructions, **environment)
    assert done.stdout == "clean\n", done.stderr[-4000:]
    assert "AddressSanitizer: heap-" in done.stderr


@pytest.mark.skipif(team_of_torch() is None, reason="this torch runs on no OpenMP of GNU's kind")
def test_torchs_own_threads_take_the_units_and_a_forked_child_starts_its_own(tmp_path: Path) -> None:
    """A child of a process whose team has run cannot use that team; asked to, it would wait for ever.

    The numbers are so few that torch's own operations, which do hang there, need no team.
    """
    code = """
import os, sys, time, torch
from disbud.kernels import Pattern, pack, sparse_layer
torch.set_num_threads(2)
torch.randn(512, 512) @ torch.randn(512, 512)
mask = torch.rand(32, 16, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.2
pattern = Pattern.of_convolution(mask, padding=1)
x, values = pack(torch.ones(16, 16, 6, 6)), torch.ones(pattern.kept)
def run():
    return sparse_layer(x, values, pattern).data.numpy().tobytes()
before = len(os.listdir("/proc/self/task"))
wanted = run()
assert len(os.listdir("/proc/self/task")) == before, "threads of its own"
child = os.fork()
if not child:
    os._exit(0 if run() == wanted else 1)
for _ in range(300):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.1)
os.kill(child, 9)
sys.exit("the child hangs")
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
