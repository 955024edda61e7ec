# make train     set up and train on generated images; ARGS="model=resnext29 dataset=cifar10" trains something else
# make test      set up and run the tests that belong before every commit; make test-slow the others
# make lint      set up and check the source's style; make format mends what can be mended
# make audit     ask whether a published weakness is known of anything that is installed; needs a network

PYTHON ?= python3
BIN := .venv/bin
SMALL := dataset=shapes model=resnet20 scheduler=cosine scheduler.warmup_epochs=0.5 trainer.max_epochs=3 trainer.batch_size=64

.PHONY: train test test-slow lint format audit clean

train: .venv/runs
	$(BIN)/python train.py $(or $(ARGS),$(SMALL))

test: .venv/tests
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

test-slow: .venv/tests
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m slow $(ARGS)

lint: .venv/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: .venv/runs
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check 'pip-audit>=2.9'
	$(BIN)/pip-audit --local

clean:
	rm -rf .venv .pytest_cache .ruff_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
	  || { echo "Python 3.10 to 3.13 is needed; this is $$($(PYTHON) -V). Try make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/runs: requirements.txt | .venv/bin/python
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/tests: requirements-dev.txt .venv/runs
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
