# make demo    the claims of a paper tested on embedded data: verdicts in the terminal, and a report to look at
# make test    the whole test suite          make check   everything CI checks besides the tests
# TORCH_INDEX=URL takes torch from another index (PyTorch's install page lists them): a plain torch on Linux brings
# gigabytes of CUDA, the CPU index does not.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
WORKERS ?= 2
export OMP_NUM_THREADS := 1

.PHONY: demo test check bench clean

demo: .venv/.installed
	$(BIN)/disbud reproduce immunity --quick

test: .venv/.developing
	$(BIN)/python -m pytest -n $(WORKERS) -q

check: .venv/.developing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_public_face.py

bench: .venv/.developing
	for file in benchmarks/*_speed.py benchmarks/*_overhead.py; do echo "== $$file"; $(BIN)/python $$file; done

.venv/.torch: constraints.txt
	$(PYTHON) -m venv .venv || { echo "python's venv is missing: install python3-venv (or python3.11-venv)"; exit 1; }
	$(BIN)/python -m pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	@touch $@

.venv/.installed: .venv/.torch pyproject.toml
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

.venv/.developing: .venv/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,hub,ray]'
	@touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
