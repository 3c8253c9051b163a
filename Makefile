# `make demo` and `make test` need Python 3.11 (with venv) and make, nothing else.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# The interpreter's own name differs between machines; any 3.11 or newer does.
HOST_PYTHON := $(shell command -v $(PYTHON) || command -v python3)
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: demo test unit lint clean

demo: $(VENV)/.program
	$(BIN)/llama-tui demo

# Slurm, sshd, training and the machine's other load are real: what fails there is run once more, and shown as RERUN with
# its traceback. More than a few of them fail the whole.
RERUNS := --reruns 1 --max-suite-reruns 4 --rerun-exclude-path tests/unit --rerun-show-tracebacks

test: $(VENV)/.tests
	sh tests/install_debian.sh
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest $(RERUNS)

# Seconds: no Slurm, no sshd, no training.
unit: $(VENV)/.tests
	$(BIN)/pytest -m "not slurm and not ssh and not e2e and not ml"

lint: $(VENV)/.tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.made:
	@$(HOST_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "llama-tui needs Python 3.11 or newer; $(HOST_PYTHON) is older. Try: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(HOST_PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install $(PIP_FLAGS) --upgrade 'pip>=25.1'
	touch $@

$(VENV)/.program: $(VENV)/.made pyproject.toml
	$(BIN)/pip install $(PIP_FLAGS) --editable .
	touch $@

$(VENV)/.tests: $(VENV)/.program pyproject.toml
	$(BIN)/pip install $(PIP_FLAGS) --group test
	touch $@

clean:
	rm -rf $(VENV) .cache build dist *.egg-info
