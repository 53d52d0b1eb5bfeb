# One command for all checks: make checks
SHELL = bash
.PHONY: checks lint format types test quick slow federated coverage

# The tests of one wing, a folder in tests/: make quick WING=text. Without a name: half of all tests, those of the wings
# that neither train nor score, in a minute and a half on two cores.
WING ?= {base,text,wordlists,objective,models,data,privacy,reports}

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

quick:
	pytest tests/$(WING)

# One after the other: some of them measure time and memory.
slow:
	pytest -n 0 -m slow

# Federation over machines, the slow tests too, in an environment of its own: Flower excludes versions that
# constraints.txt pins, and elsewhere these tests are skipped.
federated:
	python3 -m venv .venv-federated
	.venv-federated/bin/pip install --quiet -c constraints-federated.txt -e '.[federated,private,test]'
	.venv-federated/bin/python -m pytest -n 0 -m "slow or not slow" tests/federation

coverage:
	pytest --cov=distill --cov-branch --cov-report=term-missing:skip-covered
