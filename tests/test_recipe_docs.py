"""The table of a recipe's keys, as recipes/README.md has it."""

import re

from distill import recipe_docs

RECIPES_README = recipe_docs.README.read_text(encoding="utf-8")


def test_the_table_of_keys_is_current():
    assert recipe_docs.with_key_tables(RECIPES_README) == RECIPES_README, "run python -m distill.recipe_docs"


def test_every_key_has_a_meaning():
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| `(.*?)` \| (.*?) \|$", RECIPES_README, flags=re.MULTILINE)
    assert len(rows) > 50
    assert not [key for key, *cells in rows if not all(cells)]
