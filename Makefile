.PHONY: setup lint test bench

RUN := "$$(scripts/prepare_env.sh dev)"

setup:
	@scripts/prepare_env.sh dev

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

test: lint
	HF_HUB_OFFLINE=1 $(RUN) -m pytest

bench: setup
	for script in benchmarks/[a-z]*.py; do PYTHONPATH=. $(RUN) "$$script" || exit; done
