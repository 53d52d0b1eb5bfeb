"""Many recipes -> one table: a loop over the pipeline, row by row and seed by seed.

1. A study file names a recipe, and rows that lay keys of their own over it.
2. For every seed the training and held-out text is made once; all rows of the seed read the same.
3. Each row is a run of `distill.train` in a process of its own. One that is finished is skipped, one that was stopped
   goes on.
4. Each model is scored on all prompts, on both halves of the occupations, and on the texts that the study names.
5. Values are averaged over seeds, with intervals over seeds and prompts; every row is set against `plain`, paired by
   seed and by resample. -> study.json, study.md, pareto.svg

Whatever is finished is found again by its name, so a study may be killed at any moment, and a later call may add rows
and seeds.
"""

import ctypes
import hashlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, lru_cache
from itertools import product, repeat
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from distill import __version__
from distill.console import counter, say
from distill.corpus import open_corpus, read_documents
from distill.counterfactual import Swapper
from distill.errors import UserError, suggestion
from distill.generation import Prompt
from distill.logit_ops import OPERATIONS, build_role_maps
from distill.metrics import Evaluation, Outcome, chosen
from distill.metrics.bootstrap import CONFIDENCE
from distill.models import load_model, load_teacher, load_tokenizer, weights_hash
from distill.recipe import CorpusConfig, Recipe, TargetConfig, merge, read_recipe_file, read_yaml, recipe_of
from distill.role_map import token_roles
from distill.run_folder import lock, refuse_another, write_json, write_text
from distill.score import decisive, model_outcomes, run_prompts, versions
from distill.score_cache import ScoreCache, content_hash
from distill.study_report import BASELINE, HALVES, markdown, pareto
from distill.two_view import TwoViewTeacher
from distill.wordlist import load_wordlist

FORMAT = 1
_RESAMPLES = 2000
_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Study:
    """A study file. `base:` in it names another one, whose keys it replaces; `settings` are laid over those there,
    where the recipe is the same.

    Args:
        output_dir: Folder of all its runs.
        recipe: The recipe that all rows share, a path relative to the study file.
        settings: Keys laid over that recipe, for all rows. `{data}` in a text stands for the folder `data`.
        seeds: One run of each row for each.
        jobs: Rows that train, and models that are scored, at the same time; without a GPU they share the cores.
        teachers: Row name -> keys of `target`: the teacher itself, without any, or as a two-view teacher.
        students: Row name -> recipe keys.
        metrics: Scores of every model.
        half_metrics: Those that are also given for each half of the occupations.
        text_metrics: Those that are also given for each of `texts`.
        texts: Name -> file of held-out text below `data`.
        passage_chars: As in a recipe's corpus, for `texts`.
        max_documents: As in a recipe's corpus, for `texts`.
        data: Folder of benchmark data; `null`: what needs it is not measured.
    """

    output_dir: str = "outputs/study"
    recipe: str = "quickstart.yaml"
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    teachers: dict[str, Any] = field(default_factory=dict)
    students: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    half_metrics: tuple[str, ...] = ()
    text_metrics: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    passage_chars: int | None = None
    max_documents: int | None = None
    data: str | None = None


def read_study(path: str | Path, rows: Sequence[str] | None = None, **changes: Any) -> Study:
    """A checked study.

    Args:
        path: The study file.
        rows: The students to keep; None: all.
        changes: Fields that replace those of the file, where they are not None.

    Raises:
        UserError: an unknown key or row, a value of the wrong kind, or a row that is no sound recipe.
    """
    path = Path(path)
    values = _study_values(path)
    known = [f.name for f in fields(Study)]
    for key in values:
        if key not in known:
            raise UserError(f"{path}: unknown key '{key}'; {suggestion(str(key), known)}")
    values |= {key: value for key, value in changes.items() if value is not None}
    for key, value in values.items():
        default = getattr(Study(), key)
        kind = dict if isinstance(default, dict) else list if isinstance(default, tuple) else None
        if kind is not None and not isinstance(value, kind):
            raise UserError(f"{path}: key '{key}' must hold a {'mapping' if kind is dict else 'list'}, not {value!r}")
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    study = Study(**given)
    if not study.seeds or not all(isinstance(seed, int) and seed >= 0 for seed in study.seeds):
        raise UserError(f"{path}: key 'seeds' must list whole numbers of at least 0, not {list(study.seeds)}")
    if not isinstance(study.jobs, int) or study.jobs < 1:
        raise UserError(f"{path}: key 'jobs' is {study.jobs}, but must be at least 1")
    if rows is not None:
        for row in rows:
            if row not in study.students:
                raise UserError(f"{path}: holds no student '{row}'; {suggestion(row, list(study.students))}")
        study = replace(study, students={name: study.students[name] for name in study.students if name in rows})
    if BASELINE not in study.students:
        raise UserError(f"{path}: key 'students' has no row '{BASELINE}', against which the others are set")
    if both := study.students.keys() & study.teachers.keys():
        raise UserError(f"{path}: row '{sorted(both)[0]}' is named twice, under 'teachers' and under 'students'")
    for name in (*study.students, *study.teachers):
        if not str(name).replace("-", "").replace("_", "").isalnum():
            raise UserError(f"{path}: row '{name}': a name of letters, digits, - and _ is expected")
    chosen([*study.metrics, *study.half_metrics, *study.text_metrics])
    for name in study.students:
        row_recipe(study, name, study.seeds[0])
    for name, target in study.teachers.items():
        _teacher_target(path, name, target)
    return study


def _study_values(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a study file in the place of those of its `base:`, and `recipe` as a path from here.

    Settings are of a recipe: a file that names one of its own takes none of those below it.
    """
    values = read_yaml(path)
    if path.resolve() in seen:
        raise UserError(f"{path}: 'base' leads back to a file that is already being read; remove one of the two")
    base = values.pop("base", None)
    own_recipe = "recipe" in values
    if own_recipe or base is None:
        values["recipe"] = str(path.parent / str(values.get("recipe", Study.recipe)))
    if base is None:
        return values
    below = _study_values(path.parent / str(base), (*seen, path.resolve()))
    settings = {} if own_recipe else below.get("settings", {})
    return below | merge({"settings": settings}, values)


def _teacher_target(path: Path | str, name: str, values: Mapping[str, Any]) -> TargetConfig:
    known = [f.name for f in fields(TargetConfig)]
    for key in values:
        if key not in known:
            raise UserError(f"{path}: row '{name}': unknown key '{key}'; {suggestion(key, known)}")
    target = TargetConfig(**values)
    if target.op not in OPERATIONS:
        raise UserError(f"{path}: row '{name}': unknown op '{target.op}'; {suggestion(target.op, list(OPERATIONS))}")
    return target


def row_recipe(study: Study, row: str, seed: int) -> Recipe:
    """The recipe of one run.

    Raises:
        UserError: the row's keys make no sound recipe.
    """
    out = Path(study.output_dir)
    shared = _shared_values(study, seed)
    recipe = _parsed(json.dumps(shared))
    for section in _SECTIONS:
        if getattr(recipe, section).source == "teacher":
            # Drawn once for all rows, see `_make_text`; rows without a teacher could not draw it.
            shared |= {section: {"source": "files", "files": [str(_text(out, section, recipe))]}}
    own = {
        "output_dir": str(_run(study, row, seed)),
        "seed": seed,
        "baseline": False,
        "cache_dir": str(out / "cache"),
        "scores": {"metrics": ["perplexity", "bits_per_byte"]},
    }
    return recipe_of(merge(merge(shared, study.students.get(row, {})), own), f"row '{row}' of the study")


_SECTIONS = ("corpus", "held_out")


def _run(study: Study, row: str, seed: int) -> Path:
    return Path(study.output_dir) / "runs" / f"{row}-{seed}"


def _shared_values(study: Study, seed: int) -> dict[str, Any]:
    return merge(read_recipe_file(study.recipe), _with_data(study.settings, study.data)) | {"seed": seed}


def _shared(study: Study, seed: int) -> Recipe:
    return _parsed(json.dumps(_shared_values(study, seed)))


@lru_cache(maxsize=8)  # all rows of a seed ask for it
def _parsed(values: str) -> Recipe:
    return recipe_of(json.loads(values), "the study's settings")


def _with_data(value: Any, data: str | None) -> Any:
    """The same settings with the data folder in the place of `{data}`."""
    if isinstance(value, dict):
        return {key: _with_data(of_key, data) for key, of_key in value.items()}
    if isinstance(value, list):
        return [_with_data(item, data) for item in value]
    if isinstance(value, str) and "{data}" in value:
        if data is None:
            raise UserError(f"the study reads {value}: name the folder {{data}} by --data")
        return value.replace("{data}", data)
    return value


def _text(out: Path, section: str, recipe: Recipe) -> Path:
    """Where the text lies that is drawn as a recipe says."""
    key = content_hash([recipe.teacher.path, asdict(getattr(recipe, section))])
    return out / "text" / f"{section}-{recipe.seed}-{key[:8]}.jsonl"


def _make_text(study: Study, seed: int) -> None:
    """Draw the text of a seed from the teacher, where the recipe says so and it is not there yet."""
    recipe = _shared(study, seed)
    out = Path(study.output_dir)
    for number, section in enumerate(_SECTIONS):
        config, path = getattr(recipe, section), _text(out, section, recipe)
        if config.source != "teacher" or path.exists():
            continue
        with _timed(out, "text"):
            teacher, tokenizer = load_teacher(recipe.teacher)
            progress = counter(f"sampling text of seed {seed}", "documents")
            corpus = open_corpus(
                config, 2 * seed + number, out / "cache", teacher, tokenizer, weights_hash(teacher), progress
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, "".join(json.dumps({"text": document}) + "\n" for document in corpus.documents()))


# ------------------------------------------------------------------------------------------------------------- runs


def run_study(study: Study, command: str = "") -> dict[str, Any]:
    """Train what is missing, score everything, and write study.json, study.md and pareto.svg.

    Args:
        study: What is to be there in the end.
        command: The command that asked for it, to be kept with the results.

    Returns:
        What study.json holds:
            {"format",
             "rows": [{"name", "setting", "seeds", "metrics": {METRIC: {value, low, high, per_seed, n}},
                       "against_plain": {METRIC: {"difference": {value, low, high}, "ratio": {...}}}}],
             "reverse_roles": [{"row", "against", "metrics": as "against_plain"}],
             "settings", "versions",
             "made": {"command", "commit", "machine", "hours": {PART: {wall, processor}}}}

    Raises:
        UserError: the folder is in use, or holds a run of other settings; a run ended with a mistake in its recipe;
            or its model cannot be scored.
    """
    out = Path(study.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    lock(out)
    _refuse_other_rows(study)
    for seed in study.seeds:
        _make_text(study, seed)
    _train_missing(study)
    results = summary(study, _score_all(study))
    results["made"] = {"command": command, "commit": _commit(), "machine": _machine(study), "hours": _hours(out)}
    write_json(out / "study.json", results)
    write_text(out / "study.md", markdown(results))
    if (figure := pareto(results)) is not None:
        write_text(out / "pareto.svg", figure)
    return results


def _refuse_other_rows(study: Study) -> None:
    """Raises UserError if a row, or what it reads, is another than when its run was begun."""
    for row, seed in product(study.students, study.seeds):
        folder = _run(study, row, seed)
        if (folder / "recipe.yaml").exists():
            refuse_another(row_recipe(study, row, seed), folder, _decisive)


def _decisive(values: dict[str, Any]) -> dict[str, Any]:
    """What makes a run of a study what it is: its scores are the study's, and folders may be moved."""
    kept = {key: value for key, value in values.items() if key not in ("cache_dir", "scores")}
    for section in _SECTIONS:
        kept[section] = kept[section] | {"files": [Path(file).name for file in kept[section]["files"]]}
    return kept


def _train_missing(study: Study) -> None:
    """Train all rows that are not finished, `jobs` at a time; the first that fails ends the others."""
    out = Path(study.output_dir)
    todo = [
        (row, seed)
        for seed in study.seeds
        for row in study.students
        if not (_run(study, row, seed) / "scores.json").exists()
    ]
    total, done, begun = len(todo), 0, time.monotonic()
    running: dict[tuple[str, int], subprocess.Popen] = {}
    started: dict[tuple[str, int], float] = {}
    try:
        while todo or running:
            while todo and len(running) < study.jobs:
                row, seed = todo.pop(0)
                left = f", {(time.monotonic() - begun) / done * (total - done) / 60:.0f} min left" if done else ""
                say(f"training {row}, seed {seed} ({total - len(todo)} of {total}{left})")
                started[row, seed] = time.monotonic()
                running[row, seed] = _start(study, row, seed)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            for (row, seed), process in list(running.items()):
                # The only child that ends within the call is this one, so the time is its own.
                before = _children_seconds()
                if (code := process.poll()) is None:
                    continue
                _spend(out, "training", time.monotonic() - started[row, seed], _children_seconds() - before)
                del running[row, seed]
                done += 1
                if code != 0:
                    raise UserError(f"row '{row}', seed {seed}: {_last_words(_log(study, row, seed), code)}")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _start(study: Study, row: str, seed: int) -> subprocess.Popen:
    recipe = row_recipe(study, row, seed)
    path = Path(study.output_dir) / "recipes" / f"{row}-{seed}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    log = _log(study, row, seed)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "distill.train", "--config", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": str(_threads(study))},
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    """In a child, before it begins: a study that is killed leaves no process behind that would write on.

    Not SIGTERM: the run would first save a checkpoint, in a folder that the study, called again, wants to have.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _log(study: Study, row: str, seed: int) -> Path:
    return Path(study.output_dir) / "logs" / f"{row}-{seed}.log"


def _last_words(log: Path, code: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    return f"its run ended with exit code {code}: {last.removeprefix('error: ')} (all of it: {log})"


# ------------------------------------------------------------------------------------------- where, and for how long


def _threads(study: Study) -> int:
    """Threads of each job: the cores are shared, unless the caller has set their number."""
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    return max(1, len(os.sched_getaffinity(0)) // study.jobs)


def _machine(study: Study) -> dict[str, Any]:
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processor": f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}",
        "cores": len(os.sched_getaffinity(0)),
        "jobs": study.jobs,
        "threads": _threads(study),
    }


def _commit() -> str:
    """The commit of this code, with `-dirty` where it was changed since; the version where git does not know it."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"version {__version__}"


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


_SECONDS = "seconds.json"


def _seconds(out: Path) -> dict[str, dict[str, float]]:
    """Part of the study -> {"wall", "processor"}: what it has taken so far, in all calls together."""
    return json.loads((out / _SECONDS).read_text(encoding="utf-8")) if (out / _SECONDS).exists() else {}


def _spend(out: Path, part: str, wall: float, processor: float) -> None:
    """Add seconds to what a part of the study has taken; what a kill cuts off is not counted."""
    spent = _seconds(out)
    before = spent.get(part, {"wall": 0.0, "processor": 0.0})
    spent[part] = {"wall": before["wall"] + wall, "processor": before["processor"] + processor}
    write_json(out / _SECONDS, spent)


@contextmanager
def _timed(out: Path, part: str) -> Iterator[None]:
    wall, processor = time.monotonic(), time.process_time()
    yield
    _spend(out, part, time.monotonic() - wall, time.process_time() - processor)


def _hours(out: Path) -> dict[str, dict[str, float]]:
    parts = _seconds(out).items()
    return {part: {of: round(seconds / 3600, 3) for of, seconds in times.items()} for part, times in parts}


# ----------------------------------------------------------------------------------------------------------- scores


def _score_all(study: Study) -> dict[str, list[dict[str, Outcome]]]:
    """Row -> the scores of its models, seed by seed."""
    names = [*study.teachers, *study.students]
    found: dict[str, list[dict[str, Outcome]]] = {name: [] for name in names}
    with _mapper(study) as side_by_side:
        for seed in study.seeds:
            say(f"scoring {len(names)} models of seed {seed}")
            scored = side_by_side(_score, repeat(study), repeat(seed), names)
            for name, (outcomes, wall, processor) in zip(names, scored, strict=True):
                say(f"scored {name}, seed {seed}")
                found[name].append(outcomes)
                if wall:
                    _spend(Path(study.output_dir), "scoring", wall, processor)
    return found


@contextmanager
def _mapper(study: Study) -> Iterator[Callable[..., Iterable[Any]]]:
    """`map`, or with several jobs that of a pool of processes, which end with the body however it ends."""
    if study.jobs == 1:
        yield map
        return
    context = get_context("spawn")  # a fork would inherit torch's threads in whatever state they are
    with ProcessPoolExecutor(study.jobs, context, _begin_scoring, (_threads(study),)) as pool:
        try:
            yield pool.map
        except BaseException:
            for process in active_children():  # or else the pool would wait for what they are at
                process.kill()
            raise


def _begin_scoring(threads: int) -> None:
    _end_with_parent()
    torch.set_num_threads(threads)


_scorer: "_Scorer | None" = None  # that of this process, kept from one row to the next


def _score(study: Study, seed: int, row: str) -> tuple[dict[str, Outcome], float, float]:
    """The scores of a row's model, and the seconds (wall, processor) that took; 0 where all were measured before."""
    global _scorer
    if _scorer is None or (_scorer.study, _scorer.seed) != (study, seed):
        _scorer = _Scorer(study, seed)
    wall, processor, measured = time.monotonic(), time.process_time(), _scorer.measured
    outcomes = _scorer.outcomes(row)
    if _scorer.measured == measured:
        return outcomes, 0.0, 0.0
    return outcomes, time.monotonic() - wall, time.process_time() - processor


@dataclass
class _Part(Evaluation):
    """An evaluation of some of another's prompts, with the texts that were sampled there."""

    whole: Evaluation | None = None
    places: Sequence[int] = ()

    @cached_property
    def continuations(self) -> list[list[str]]:
        assert self.whole is not None
        return [self.whole.continuations[place] for place in self.places]


def halves(prompts: Sequence[Prompt]) -> dict[str, list[int]]:
    """The prompts of each half of the subjects (occupations): every second one, in the order of the source."""
    order = {subject: place for place, subject in enumerate(dict.fromkeys(prompt.subject for prompt in prompts))}
    return {
        half: [place for place, prompt in enumerate(prompts) if order[prompt.subject] % 2 == number]
        for number, half in enumerate(HALVES)
    }


class _Scorer:
    """Scores the models of one seed, all on the same prompts and texts."""

    def __init__(self, study: Study, seed: int) -> None:
        self.study, self.seed = study, seed
        self.measured = 0  # metrics that were not in the cache
        self.out = Path(study.output_dir)
        self.recipe = row_recipe(study, BASELINE, seed)
        shared = _shared(study, seed)
        self.settings = replace(shared.scores, data=study.data)
        self.swapper = Swapper(load_wordlist(self.recipe.wordlist))
        self.prompts, _ = run_prompts(shared, self.swapper)
        self.halves = halves(self.prompts)
        self.documents = [d for d in read_documents(self.recipe.held_out, seed) if d.strip()]
        self.texts = {name: self._documents(file) for name, file in study.texts.items()}
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model, self.tokenizer = load_teacher(self.recipe.teacher)
        self.teacher = model.to(self.device)
        self.teacher_hash = weights_hash(model)

    def _documents(self, file: str) -> list[str]:
        """Texts of a file below the data folder; none where it is missing, so that its scores are undefined."""
        path = Path(self.study.data or "", file)
        if self.study.data is None or not path.exists():
            return []
        corpus = CorpusConfig(
            source="files",
            files=[str(path)],
            passage_chars=self.study.passage_chars,
            max_documents=self.study.max_documents,
        )
        return [document for document in read_documents(corpus, self.seed) if document.strip()]

    def outcomes(self, row: str) -> dict[str, Outcome]:
        """All scores of a row's model, by name: METRIC, METRIC_HALF and METRIC_TEXT."""
        model, tokenizer, model_hash = self._model(row)
        common: dict[str, Any] = {"settings": self.settings, "seed": self.seed, "swapper": self.swapper}
        common["judge"] = lambda: (self.teacher, self.tokenizer)
        whole = Evaluation(model, tokenizer, self.swapper.wordlist, self.documents, self.prompts, **common)
        found = self._measured(whole, model_hash, self.study.metrics, "")
        for half, places in self.halves.items():
            part = _Part(
                model, tokenizer, self.swapper.wordlist, (), [self.prompts[place] for place in places],
                **common, whole=whole, places=places,
            )  # fmt: skip
            found |= self._measured(part, model_hash, self.study.half_metrics, f"_{half}")
        for name, documents in self.texts.items():
            read = Evaluation(model, tokenizer, self.swapper.wordlist, documents, (), **common)
            found |= self._measured(read, model_hash, self.study.text_metrics, f"_{name}")
        return found

    def _measured(
        self, evaluation: Evaluation, model_hash: str, metrics: Sequence[str], suffix: str
    ) -> dict[str, Outcome]:
        given = decisive(self.settings, self.seed, self.swapper, evaluation.documents, evaluation.prompts)
        kept = ScoreCache(self.out / "cache" / "scores", given | {"judge": self.teacher_hash, "part": suffix})
        outcomes, _ = model_outcomes(evaluation, chosen(list(metrics)), kept, model_hash)
        self.measured += kept.measured
        return {name + suffix: outcome for name, outcome in outcomes.items()}

    def _model(self, row: str) -> tuple[Any, Any, str]:
        """Model, tokenizer and hash of a row."""
        if row in self.study.teachers:
            target = _teacher_target(self.study.recipe, row, self.study.teachers[row])
            if target.op == "none":
                return self.teacher, self.tokenizer, self.teacher_hash
            roles = token_roles(
                self.swapper.wordlist, self.tokenizer, self.teacher.get_output_embeddings().weight.shape[0]
            )
            maps = [role_map.to(self.device) for role_map in build_role_maps(roles.edges, roles.vocab_size)]
            model = TwoViewTeacher(self.teacher, self.tokenizer, self.swapper, target, maps)
            return model, self.tokenizer, f"{self.teacher_hash} {content_hash(asdict(target))}"
        folder = str(self.out / "runs" / f"{row}-{self.seed}" / "student")
        model = load_model(folder).to(self.device)
        return model, load_tokenizer(folder), weights_hash(model)


# ---------------------------------------------------------------------------------------------------------- summary


def resampled_mean(
    outcomes: Sequence[Outcome], absolute: bool, draws: int = _RESAMPLES
) -> tuple[float | None, np.ndarray]:
    """The mean over seeds, and bootstrap draws of it over seeds and units (prompts, documents, pairs).

    Every draw takes as many seeds as there are, with replacement, and for each of these one resample of its units. The
    same call for another row takes the same seeds and resamples, so that two rows are paired.

    Args:
        outcomes: One for each seed.
        absolute: Take the size of each seed's value, without its sign.
        draws: Number of draws.

    Returns:
        (mean or None, (draws,) or an empty array where a seed has no resamples).
    """
    values = [outcome.value for outcome in outcomes]
    if not values or any(value is None for value in values):
        return None, np.empty(0)
    size = np.abs if absolute else np.asarray
    mean = float(np.mean(size(np.array(values))))
    if any(not outcome.drawn for outcome in outcomes):
        return mean, np.empty(0)
    rng = np.random.default_rng(0)
    seeds = rng.integers(len(outcomes), size=(draws, len(outcomes)))
    place = rng.random(size=(draws, len(outcomes)))
    tables = [size(np.array(outcome.drawn, dtype=float)) for outcome in outcomes]
    drawn = np.empty((draws, len(outcomes)))
    for seed, table in enumerate(tables):
        here = seeds == seed
        drawn[here] = table[(place[here] * len(table)).astype(int)]
    return mean, drawn.mean(axis=1)


def _interval(drawn: np.ndarray) -> dict[str, float | None]:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return {"low": None, "high": None}
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"low": float(low), "high": float(high)}


def _aggregate(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    value, drawn = resampled_mean(outcomes, absolute=False)
    per_seed = [outcome.value for outcome in outcomes]
    entry = {"value": value, **_interval(drawn), "per_seed": per_seed, "n": sum(outcome.n for outcome in outcomes)}
    reason = next((o.details["reason"] for o in outcomes if o.value is None and "reason" in o.details), None)
    return entry | ({"reason": reason} if reason else {})


def _against(outcomes: Sequence[Outcome], plain: Sequence[Outcome]) -> dict[str, Any]:
    """Difference and ratio of the sizes of two rows, paired by seed and resample."""
    (ours, our_draws), (theirs, their_draws) = (resampled_mean(o, absolute=True) for o in (outcomes, plain))
    if ours is None or theirs is None:
        return {
            "difference": {"value": None, "low": None, "high": None},
            "ratio": {"value": None, "low": None, "high": None},
        }
    paired = len(our_draws) and len(their_draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = our_draws - their_draws if paired else np.empty(0)
        ratio = our_draws / their_draws if paired else np.empty(0)
    return {
        "difference": {"value": ours - theirs, **_interval(difference)},
        "ratio": {"value": ours / theirs if theirs else None, **_interval(ratio)},
    }


def summary(study: Study, outcomes: Mapping[str, Sequence[Mapping[str, Outcome]]]) -> dict[str, Any]:
    """The content of study.json.

    Args:
        study: Names the rows.
        outcomes: Row -> for each seed the outcomes by name.
    """
    rows = []
    for name, of_row in outcomes.items():
        metrics = {metric: [of_seed[metric] for of_seed in of_row] for metric in of_row[0]}
        rows.append(
            {
                "name": name,
                "setting": _setting(study, name),
                "seeds": list(study.seeds),
                "metrics": {metric: _aggregate(of_metric) for metric, of_metric in metrics.items()},
                "against_plain": _rows_against(of_row, outcomes[BASELINE]) if name != BASELINE else {},
            }
        )
    shared = row_recipe(study, BASELINE, study.seeds[0])
    told = {f.name for f in fields(Study)} - {"output_dir", "recipe", "data", "jobs"}  # paths say nothing elsewhere
    return {
        "format": FORMAT,
        "rows": rows,
        "reverse_roles": [
            {"row": row, "against": without, "metrics": _rows_against(outcomes[row], outcomes[without])}
            for row, without in _reversals([row for row in rows if row["name"] in study.students])
        ],
        "settings": {
            "study": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(study).items() if key in told},
            "trainer": shared.trainer,
            "interval": f"{CONFIDENCE:.0%} percentile bootstrap over seeds, and over units within a seed; rows paired",
            "recipe_sha256": hashlib.sha256(json.dumps(shared.to_dict(), sort_keys=True).encode()).hexdigest(),
        },
        "versions": versions("cuda" if torch.cuda.is_available() else "cpu"),
    }


def _rows_against(
    of_row: Sequence[Mapping[str, Outcome]], of_other: Sequence[Mapping[str, Outcome]]
) -> dict[str, dict[str, Any]]:
    return {m: _against([seed[m] for seed in of_row], [seed[m] for seed in of_other]) for m in of_row[0]}


def _reversals(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(a row with `reverse_roles`, the row that differs from it in nothing else)."""
    settings = {row["name"]: row["setting"] for row in rows if row["setting"] is not None}
    for name, setting in settings.items():
        if setting["reverse_roles"]:
            yield from ((name, other) for other in settings if settings[other] == setting | {"reverse_roles": False})


def _setting(study: Study, name: str) -> dict[str, Any] | None:
    """What makes a row what it is; None where no target is made (no teacher)."""
    if name in study.teachers:
        target = TargetConfig(**study.teachers[name])
    else:
        recipe = row_recipe(study, name, study.seeds[0])
        if recipe.teacher.path is None:
            return None
        target = recipe.target
    return asdict(target)
