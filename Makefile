PYTHON ?= python3
PHOTOS ?= src/deepviz/photos
VENV   := .venv
BIN    := $(VENV)/bin
FLOOR  := .venv-floor
FLOOR_TESTS := tests/methods tests/objectives tests/render tests/probe tests/metrics --ignore=tests/probe/test_layers.py \
	--ignore=tests/metrics/test_sensitivity.py --ignore=tests/metrics/test_similarity.py
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test floor check format docs bench clean

demo: $(VENV)/demo
	$(BIN)/deepviz explain src/deepviz/photos/chelsea.png

test: $(VENV)/test
	$(BIN)/python -m pytest --numprocesses=2

# the tests that need no other packages, in the oldest versions that pyproject.toml allows
floor: $(FLOOR)/test
	$(FLOOR)/bin/python -m pytest --numprocesses=2 $(FLOOR_TESTS)

check: $(VENV)/lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/docs
	$(BIN)/sphinx-build -j 2 -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/bench
	$(BIN)/python benchmarks/conformance.py
	$(BIN)/python benchmarks/tasks_peers.py
	$(BIN)/python benchmarks/zoo.py --write
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/completeness.py $(PHOTOS)
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/trust.py $(PHOTOS)
	$(BIN)/python benchmarks/viewer.py
	$(BIN)/python benchmarks/trained_vit.py
	$(BIN)/python benchmarks/runs.py
	$(BIN)/python benchmarks/run_page.py
	$(BIN)/python benchmarks/incremental_occlusion.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/black_box.py
	$(BIN)/python benchmarks/low_budget.py $(PHOTOS)

clean:
	rm -rf $(VENV) $(FLOOR) docs/_build docs/jupyter_execute deepviz-out

# torch goes first and alone: what comes after it must not bring another build of it
$(VENV)/torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "DeepViz needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": name another, as in make demo PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) torch
	touch $@

$(VENV)/demo: $(VENV)/torch pyproject.toml
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/test: $(VENV)/demo
	$(PIP) --group test --editable '.[demo]'
	touch $@

$(VENV)/lint: $(VENV)/test
	$(PIP) --group lint
	touch $@

$(VENV)/bench: $(VENV)/test
	$(PIP) --group bench
	touch $@

$(VENV)/docs: $(VENV)/test
	$(PIP) --group docs
	touch $@

# without the constraints, which are the newest; matplotlib 3.9 gives warnings beside a newer pyparsing
$(FLOOR)/test: pyproject.toml .ci/floor.py
	$(PYTHON) -m venv $(FLOOR)
	$(PYTHON) .ci/floor.py demo plot web > $(FLOOR)/versions.txt
	$(FLOOR)/bin/pip install --quiet --requirement $(FLOOR)/versions.txt pytest pytest-xdist hypothesis 'pyparsing<3.2'
	$(FLOOR)/bin/pip install --quiet --no-deps --editable .
	touch $@
