.PHONY: setup lint test docs bench

setup:
	@scripts/prepare_env.sh dev

lint: setup
	scripts/in_env.sh -m ruff check .
	scripts/in_env.sh -m ruff format --check .
	scripts/in_env.sh -m mypy

test: lint
	HF_HUB_OFFLINE=1 scripts/in_env.sh -m pytest -n 2 --dist loadfile

docs:
	python=$$(scripts/prepare_env.sh docs) && NO_MKDOCS_2_WARNING=1 "$$python" -m mkdocs build --strict

bench: setup
	for script in benchmarks/cpu_*.py; do PYTHONPATH=. scripts/in_env.sh "$$script" || exit; done
