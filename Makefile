PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup setup-dev demo serve test faults check format docs clean

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps --upgrade --target $(VENV)/peft peft  # tests/test_peft.py
	touch $@

demo: setup  ## from a bundled model to demo/sheet.png, no network
	$(BIN)/bowerbird demo --out demo

serve: setup  ## the page in a browser, with the starter collection
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[serve]'
	test -f demo/serve-kb/kb.json || $(BIN)/bowerbird kb build demo/serve-kb starter
	$(BIN)/bowerbird serve --kb demo/serve-kb --data demo/server --open

test: setup-dev check  ## everything CI runs; tests are of one thread each, so as many at once as there are cores
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

faults: setup-dev  ## what the knowledge base survives; BOWERBIRD_FAULTS=full for full size
	$(BIN)/python -m pytest tests/faults

check: setup-dev  ## format, lint, types, floors, documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/make_cli.py --check
	$(BIN)/python docs/make_api.py --check

format: setup-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup-dev  ## docs/cli.md from --help, docs/api.md from signatures and docstrings
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_api.py

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
