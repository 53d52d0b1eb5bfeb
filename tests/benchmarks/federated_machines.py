"""Time of rounds over Flower on the loopback, beside rounds in one process and plain training of the same steps.

python tests/benchmarks/federated_machines.py [STEPS] [CLIENTS] [ROUNDS], in Flower's environment; the numbers of
FEDERATED.md.

The demo teacher, a student of half its layers, batches of 4 x 128 tokens of text that the teacher wrote, a thread each.
A SuperLink and CLIENTS SuperNodes share the machine. A round over Flower is all from one state on disk to the next,
processor time that of all processes; the rounds after the first count, and what came before them is told as the start.
Seconds are those of a million tokens that the student trains on, as in `federated.py`, which measures the other two.
"""

import ctypes
import json
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import yaml
from federated import measured

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
from loopback import machines
from shared import REPOSITORY

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: workers, whose parents end, become children of this process


def main(steps: int = 20, clients: int = 4, rounds: int = 3) -> None:
    """Print seconds and ratios."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        one, documents = measured(steps, clients, 1, batch=4)
        text = place / "text.jsonl"
        text.write_text("".join(json.dumps({"text": line}) + "\n" for line in documents), encoding="utf-8")
        start, over = _over_flower(place, text, steps, clients, rounds)
    plain = one["plain"]
    print(f"{clients} clients, {steps} steps; seconds a million tokens, and beside plain training")
    for name, (wall, processor) in {**one, "Flower": over}.items():
        ratios = f"{wall / plain[0]:.2f}, {processor / plain[1]:.2f}"
        print(f"{name}: wall {wall:.1f}, processor {processor:.1f}; ratios {ratios}")
    print(f"until the first round over Flower was done: wall {start[0]:.1f} s, processor {start[1]:.1f} s")


def _over_flower(
    place: Path, text: Path, steps: int, clients: int, rounds: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Wall and processor seconds of the start and the first round, and of a million tokens in the rounds after it."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    recipe = {
        "base": str(REPOSITORY / "recipes/quickstart.yaml"), "output_dir": str(place / "out"), "baseline": False,
        "corpus": {"source": "files", "files": [str(text)], "max_documents": None},
        "trainer": {"max_steps": -1, "per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True},
        "federation": {"clients": clients, "rounds": rounds, "local_steps": steps, "watch": []},
    }  # fmt: skip
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    nodes = [f'recipe="{path}" client={k} folder="{place}/client-{k}"' for k in range(clients)]
    marks = [(time.perf_counter(), _processor())]
    with machines(place, nodes) as run, ThreadPoolExecutor(1) as beside:
        running = beside.submit(run, str(path))
        for number in range(1, rounds + 1):
            while not (place / f"out/checkpoints/student/checkpoint-{number}").exists():
                if running.done():
                    sys.exit(running.result().stdout + running.result().stderr)
                time.sleep(0.1)
            marks.append((time.perf_counter(), _processor()))
        running.result()
    records = json.loads((place / "out/federation/student.json").read_text(encoding="utf-8"))
    millions = sum(record["tokens"] for record in records[1:]) / 1e6
    (begun, first, last) = marks[0], marks[1], marks[-1]
    start = first[0] - begun[0], first[1] - begun[1]
    return start, ((last[0] - first[0]) / millions, (last[1] - first[1]) / millions)


def _processor() -> float:
    """Processor seconds of all that was started here, done or not."""
    done = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = done.ru_utime + done.ru_stime
    for process in psutil.Process().children(recursive=True):
        try:
            total += sum(process.cpu_times()[:4])  # its own, and those of children that it has waited for
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
