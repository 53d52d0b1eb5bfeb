"""How long a run takes after the imports, which a machine that has just started does slowly.

    python tests/benchmarks/quickstart.py --save FILE --config quickstart --output_dir OUT

All else is given to the run, as `distill/train.py` is given it. FILE gets {"imports", "after_imports"}, in
seconds, where the run ended well.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from distill.base.console import run_entry


def main() -> int:
    """The exit code of the run."""
    begun = imported = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--save", type=Path, required=True, metavar="FILE")
    options, given = parser.parse_known_args()

    def run(argv: Sequence[str]) -> None:
        """As the entry does it, which has set the threads by now."""
        nonlocal imported
        import distill.pipeline  # noqa: F401  # it brings torch and transformers
        from distill.train import main

        imported = time.perf_counter()
        main(argv)

    if not (code := run_entry(run, given)):
        taken = {"imports": imported - begun, "after_imports": time.perf_counter() - imported}
        options.save.write_text(json.dumps(taken), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
