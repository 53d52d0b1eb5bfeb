"""What `gpu.sh` measured -> gpu.json; and the rate of products that a device reaches.

python tests/benchmarks/gpu_report.py OUT
python tests/benchmarks/gpu_report.py --matrix_rate --device cuda
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch


def matrix_rate(device: str, size: int = 8192, repeats: int = 20) -> float:
    """10^12 operations a second in products of two (size, size) matrices in bfloat16: the best of some."""
    if device == "cpu":
        size, repeats = min(size, 512), 3
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def steps_of(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Contender -> milliseconds, rows' tokens a second, share of the matrix rate and peak, from `step.py --json`."""
    return {
        name: {
            "ms": 1000 * record["seconds"],
            "row_tokens_per_second": record["tokens_per_second"],
            "matrix_rate_share": record.get("matrix_rate_share"),
            "peak_gib": record["bytes"] / 2**30,
        }
        for name, record in figures["contenders"].items()
    }


def read(path: Path) -> dict[str, Any] | None:
    """A file of JSON, or None where it was not written."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() and path.stat().st_size else None


def report(folder: Path) -> dict[str, Any]:
    """All that lies in the folder; parts that failed are missing."""
    found: dict[str, Any] = {}
    for file, key in (("step.json", "step"), ("step--compile.json", "step_compiled")):
        if (figures := read(folder / file)) is not None:
            found |= {key: steps_of(figures), "setting": figures["setting"]}
    if (figures := read(folder / "sampling.json")) is not None:
        found["sampling"] = figures["sampling"]
    if (folder / "quickstart.seconds").exists():
        start, end = map(float, (folder / "quickstart.seconds").read_text(encoding="utf-8").split())
        found["quickstart_seconds"] = end - start
    return found


def main() -> None:
    """One of the two."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="where gpu.sh wrote")
    parser.add_argument("--matrix_rate", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    options = parser.parse_args()
    if options.matrix_rate:
        print(f"{matrix_rate(options.device):.4g}")
    elif options.folder:
        (options.folder / "gpu.json").write_text(json.dumps(report(options.folder), indent=2), encoding="utf-8")
    else:
        parser.error("give the folder, or --matrix_rate")


if __name__ == "__main__":
    main()
