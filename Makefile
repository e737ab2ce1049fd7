# Everything a new machine needs is installed here: Python 3.11, make, git and a C compiler are assumed.
PYTHON ?= python3.11
VENV   := .venv
PIP    := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The CPU build of this version, or the CUDA build where the machine's package index serves one.
TORCH  ?= torch==2.13.0
# Processes that share the files of tests: one per core is right.
WORKERS ?= 2
export CORPUS ?=
export FULL ?=
export RUN_DIR ?=

.PHONY: setup setup-dev quickstart test test-slow test-gpu lint clean

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found: install Python 3.11, or name yours with make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) has no venv module: install it (Debian: apt-get install python3.11-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py constraints.txt | $(VENV)/bin/python
	@command -v cc >/dev/null || { echo "make: no C compiler (cc) found: install one (Debian: apt-get install build-essential)"; exit 1; }
	$(PIP) setuptools wheel $(TORCH)
	$(PIP) --no-build-isolation -e '.[data]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

quickstart: $(VENV)/.installed
	$(VENV)/bin/megatron-seed quickstart $${FULL:+--full} $${CORPUS:+--corpus "$$CORPUS"} $${RUN_DIR:+--run-dir "$$RUN_DIR"}

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m 'not slow and not gpu'

# Debian packages that tests run for real: a Slurm cluster on this one machine, and a judge of the scripts written for it.
# Where they cannot be installed, their tests say so and are skipped; those on Slurm fail with CI=true.
DEBIAN := slurm-wlm munge shellcheck
APT    := DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN) >/dev/null
$(VENV)/.installed-debian: | $(VENV)/bin/python
	@command -v slurmctld >/dev/null && command -v munged >/dev/null && command -v shellcheck >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && { $(APT) || { apt-get update -qq && $(APT); }; }; } || \
	  echo "make: $(DEBIAN) could not be installed: tests on Slurm will be skipped"
	@touch $@

test-slow: $(VENV)/.installed-dev $(VENV)/.installed-debian
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m slow --timeout 1500

test-gpu: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -m gpu tests/gpu

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .import_linter_cache
