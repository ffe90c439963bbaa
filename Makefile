# make demo    install into .venv, then open the demo (or walk through it where there is no display)
# make test    install into .venv, then run every test (GUI tests under a virtual display)
# make coverage  the same tests, then which lines they do not reach: a table, and pages in build/coverage
# make lower-bounds  the tests that need no window, with the oldest versions that pyproject.toml allows, extras too
# make check   style, types, import contract, plugin manifest
# make docs    build the pages of docs/ as a site in build/docs; a link that leads nowhere is an error
# make clean   remove the environment and everything that was built

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test coverage lower-bounds check format build docs screenshots sample clean

demo: $(STAMP)
	@sh scripts/with_display.sh $(BIN)/napari-glacier demo --out demo_output

test: $(STAMP)
	@sh scripts/with_display.sh --packages-only
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

coverage: $(STAMP)
	@sh scripts/with_display.sh --packages-only
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-report=html $(PYTEST_ARGS)

LOWEST := build/lowest
LOWEST_EXTRAS := --extra gui --extra cluster --extra int8 --extra monai --extra sam2 --extra tensorboard --extra wandb
lower-bounds: $(STAMP)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip compile --quiet pyproject.toml $(LOWEST_EXTRAS) --resolution lowest-direct -o $(LOWEST)/requirements.txt
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python -r $(LOWEST)/requirements.txt \
	  hypothesis pytest pytest-qt pytest-timeout pytest-xvfb scikit-learn
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps -e .
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m "not slow and not gui" -W ignore::DeprecationWarning \
	  tests/core tests/nn tests/controllers

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/npe2 validate napari-glacier

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: $(STAMP)
	$(BIN)/python -m build --installer uv

docs: $(STAMP)
	$(BIN)/python -m sphinx -W -n --keep-going -q -b html docs build/docs
	@echo build/docs/index.html

screenshots: $(STAMP)
	sh scripts/with_display.sh --virtual $(BIN)/python scripts/screenshots.py

# The bundled region and the three members trained on it, from their seeds.
sample: $(STAMP)
	$(BIN)/python -m napari_glacier._sample.generate --out sample_data/region
	$(BIN)/python scripts/train_bundled.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("napari-glacier needs Python 3.11 or newer; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): several GB are fetched the first time (8 GB of disk), in minutes, without a word in between."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt -e ".[gui,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo_output
