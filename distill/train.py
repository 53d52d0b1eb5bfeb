"""The entry: argv -> a checked recipe -> the pipeline.

Run it as `accelerate launch distill/train.py --config quickstart`, or as `distill train` on one process.
Every finished stage is kept in the output folder, so the same command continues where it stopped.
"""

import sys
from collections.abc import Sequence

from distill.base.console import run_entry
from distill.recipe_check import parse_recipe


def main(argv: Sequence[str]) -> None:
    """Run a recipe from its text to its report.

    Raises UserError, see `distill.pipeline.run`.
    """
    recipe = parse_recipe(argv)

    # torch and transformers take seconds to import: --help, --print_config and a misspelt option do without them.
    from distill.pipeline import run

    run(recipe)


if __name__ == "__main__":
    sys.exit(run_entry(main, sys.argv[1:]))
