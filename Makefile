# make demo | make test | make fuzz | make bench      (needs Python 3.11+ and a package index)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test fuzz bench lint fix clean

demo: $(VENV)/.base
	$(BIN)/earshot demo $(if $(SOUNDS),"$(SOUNDS)")

test: lint
	$(BIN)/pytest -n auto --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Another seed each time, or SEED=n to do one again.
fuzz: $(VENV)/.dev
	EARSHOT_FUZZ_FILES=2000 EARSHOT_FUZZ_SEED=$(or $(SEED),$(shell date +%s)) EARSHOT_LONG=1 \
	$(BIN)/pytest tests/hostile/test_fuzz.py tests/hostile/test_long.py -s

bench: $(VENV)/.dev
	mkdir -p build
	$(BIN)/pytest benchmarks --benchmark-enable -s --benchmark-json=build/benchmarks.json; status=$$?; \
	$(BIN)/python -m benchmarks.report build/benchmarks.json docs/benchmarks.md; exit $$status

# FAMILY: laion, laion-fused, laion-larger, msclap-2023 or sentence-transformers; takes minutes, and up to 8 GB of memory (the last 11)
parity: $(VENV)/.dev
	$(BIN)/python -m tests.exporters.full_size $(FAMILY) docs/parity/$(FAMILY).md

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.base: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# torch comes first and alone, so that nothing else chooses another build of it. Of msclap, a reference in the tests,
# only the model's files are used: its requirements (torchaudio, numpy 1) would break the rest.
$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps msclap==1.3.4 torchlibrosa==0.1.0
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
