.PHONY: format check test test-slow

format:
	python -m ruff check --fix .
	python -m ruff format .

check:
	python -m ruff check .
	python -m ruff format --check .
	python -m mypy
	lint-imports

test:
	python -m pytest -n 2

test-slow:
	python -m pytest -m slow
