# One command for all checks: make checks
.PHONY: checks lint format test slow coverage

checks: lint test

lint:
	ruff check .
	ruff format --check .

format:
	ruff check --fix .
	ruff format .

test:
	pytest

slow:
	pytest -m slow

coverage:
	pytest --cov=distill --cov-branch --cov-report=term-missing:skip-covered
