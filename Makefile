# The whole interface of a checkout: make setup, make test, make demo, make lint.
PYTHON ?= python3
DEMO ?= full
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup test demo lint format lock clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	$(BIN)/python -m lipsync_lightning.media.face_networks
	touch $(READY)

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

demo: setup
	$(BIN)/python -m lipsync_lightning.demo size=$(DEMO)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Newest versions that fit pyproject.toml, for every platform and supported Python.
lock:
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --no-emit-index-url --no-header --output-file requirements.lock

clean:
	rm -rf $(VENV) runs
