# One command for all checks: make checks
.PHONY: checks lint format types test slow coverage

checks: lint types test

lint:
	ruff check .
	ruff format --check .

format:
	ruff check --fix .
	ruff format .

types:
	mypy

test:
	pytest

slow:
	pytest -m slow

coverage:
	pytest --cov=distill --cov-branch --cov-report=term-missing:skip-covered
