.PHONY: format check test test-slow docs

format:
	python -m ruff check --fix .
	python -m ruff format .

check:
	python -m ruff check .
	python -m ruff format --check .
	python -m mypy
	lint-imports
	@if python -c "import material, mkdocstrings" 2>/dev/null; \
	then python -m mkdocs build --strict --quiet --site-dir "$$(mktemp -d)/site"; \
	else echo "the docs are not built: pip install -e '.[docs]' has what they need"; fi

test:
	python -m pytest -n 2

test-slow:
	python -m pytest -m slow

docs:
	python -m mkdocs build --strict
