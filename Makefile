# make demo    install into .venv, then open the demo (or walk through it where there is no display)
# make test    install into .venv, then run every test (GUI tests under a virtual display)
# make check   style, types, import contract, plugin manifest
# make docs    build the pages of docs/ as a site in build/docs; a link that leads nowhere is an error
# make clean   remove the environment and everything that was built

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check format build docs screenshots sample clean

demo: $(STAMP)
	@sh scripts/with_display.sh $(BIN)/napari-glacier demo --out demo_output

test: $(STAMP)
	@sh scripts/with_display.sh --packages-only
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile $(PYTEST_ARGS)

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt -e ".[gui,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo_output
