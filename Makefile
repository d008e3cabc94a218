# make demo   the main job on the sandbox, one command from a fresh clone
# make test   the whole test suite, with every extra installed
# make check  exactly what CI runs before the tests: format, lint, types, layers, light imports, the map
# make docs   writes docs/cli.md, and the tables and figures of docs/theory.md, again
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# torch is named by itself and first, so that a machine with its own wheel index for torch can serve it from there.
TORCH := $(shell grep '^torch==' constraints.txt)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STRUCTURE := tests/test_layers.py tests/test_light_import.py tests/test_tree.py tests/test_readme.py tests/cli/test_docs.py

.PHONY: demo test check docs

demo: $(VENV)/.local
	$(BIN)/inferalign demo

# One process a CPU with one thread each, four at most: each of them loads torch and the models.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest $(STRUCTURE)

docs: $(VENV)/.dev
	$(BIN)/python -m inferalign.cli.docs > docs/cli.md
	$(BIN)/python -m inferalign.cli.theory_docs

# A stamp is younger than the files that say what to install, so a second run installs nothing.
$(VENV)/.local: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -c constraints.txt -e '.[local]'
	touch $@

$(VENV)/.dev: $(VENV)/.local
	$(PIP) -c constraints.txt -e '.[local,report,train,scale,agency,dev]'
	touch $@
