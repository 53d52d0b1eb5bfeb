"""What a user names on the command line -> which models are shown, by which word list, and which reports.

A finished run brings its teacher, its plain and its mitigated student, its word list, its target and its report; any
other folder or hub id is a checkpoint that is shown as it is. `Shown` is all that the page needs to know. It is plain
data, so that an exported page (`export`) reads the same from a file.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from distill.base.bundled import at_hand
from distill.base.errors import UserError
from distill.base.long_input import read_text
from distill.recipe import Recipe, TargetConfig, TeacherConfig, read_resolved
from distill.recipe_check import typed
from distill.reports.page import model_style
from distill.text.prompts import DEFAULT_PROMPTS
from distill.text.wordlist import names_in

_STUDENT = "student"
_OF_A_MODEL = ("config.json", "adapter_config.json")
#: What the slider of a page over checkpoints without a recipe shows: the mitigation of the quickstart.
DEFAULT_TARGET = TargetConfig(op="expmean", reverse_roles=True)


@dataclass(frozen=True)
class Source:
    """A model that is shown.

    Args:
        title: What it is called, unique on the page.
        style: `teacher`, `plain` or `mitigated`, as reports draw it.
        model: Where it lies and how it is loaded.
        short: Name of its folder in an exported page.
    """

    title: str
    style: str
    model: TeacherConfig
    short: str


@dataclass(frozen=True)
class Shown:
    """All that a page shows.

    Args:
        sources: The models, in the order of their columns.
        wordlist, resolver, skip: Of the swapper, as in a recipe.
        target: What the slider over the two-view teacher mixes in; its `strength` plays no part.
        prompts: Where the subjects and templates come from, see `load_prompts`.
        chat: Whether prompts go through the models' chat templates.
        reports: Title -> report.html of each run.
    """

    sources: tuple[Source, ...]
    wordlist: str = "english_gender"
    resolver: str = "log_linear"
    skip: str = "document"
    target: TargetConfig = DEFAULT_TARGET
    prompts: str = DEFAULT_PROMPTS
    chat: bool = False
    reports: dict[str, str] = field(default_factory=dict)

    @property
    def teacher(self) -> Source:
        """The model that the slider asks twice: the first teacher, else the first model."""
        return next((source for source in self.sources if source.style == "teacher"), self.sources[0])

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, for `read_file`."""
        return asdict(self)


def read_shown(paths: Sequence[str], wordlist: str | None = None, trust_remote_code: bool = False) -> Shown:
    """What to show of some runs and checkpoints.

    Args:
        paths: Each the folder of a finished run, the folder of a checkpoint, a hub id, or `demo`.
        wordlist: Name or path; None: that of the first run, else `english_gender`.
        trust_remote_code: Run code that comes with checkpoints; of runs, their recipes say.

    Raises:
        UserError: a folder is neither, or a run is not finished.
    """
    # A folder may be spelled in several ways: outputs/quickstart and outputs/quickstart/.
    first: dict[str, str] = {}
    for path in paths:
        first.setdefault(_place(path), path)
    given = list(first.values())
    runs = {path: _read_run(Path(path)) for path in given if (here := local(path)) and (here / "recipe.yaml").exists()}
    names = _names(given)
    sources: list[Source] = []
    for path in given:
        found = _of_run(Path(path), runs[path]) if path in runs else [_checkpoint(path, trust_remote_code)]
        if len(given) > 1 and path in runs:
            found = [replace(s, title=f"{s.title}, {names[path]}", short=f"{names[path]}-{s.short}") for s in found]
        # Runs often share a teacher: it is shown, and loaded, once.
        known = {_placed(source.model) for source in sources}
        sources += [source for source in found if _placed(source.model) not in known]
    shown = Shown(_unlike(sources), reports=_reports(runs, names))
    if runs:
        recipe = next((r for r in runs.values() if r.needs_counterfactuals), next(iter(runs.values())))
        shown = replace(
            shown,
            wordlist=recipe.wordlist,
            resolver=recipe.resolver,
            skip=recipe.skip,
            target=recipe.target if recipe.target.op != "none" else DEFAULT_TARGET,
            prompts=recipe.scores.prompts if _is_local(recipe.scores.prompts) else DEFAULT_PROMPTS,
            chat=recipe.scores.chat,
        )
    return replace(shown, wordlist=wordlist) if wordlist else shown


def read_file(path: Path) -> Shown:
    """What `Shown.to_dict` gave, from a JSON file; relative paths in it count from its folder.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        values = json.loads(read_text(path, "give the shown.json of an exported page"))
        sources = tuple(Source(**{**s, "model": TeacherConfig(**s["model"])}) for s in values["sources"])
        shown = Shown(**{**values, "sources": sources, "target": TargetConfig(**values["target"])})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); export the page again") from None

    def beside(name: str) -> str:
        return str(path.parent / name) if (path.parent / name).exists() else name

    sources = tuple(
        replace(source, model=replace(source.model, path=beside(str(source.model.path)))) for source in shown.sources
    )
    return replace(
        shown,
        sources=sources,
        wordlist="+".join(map(beside, names_in(shown.wordlist, path.parent))),
        prompts=beside(shown.prompts),
        reports={title: beside(name) for title, name in shown.reports.items()},
    )


def _read_run(folder: Path) -> Recipe:
    recipe: Recipe = typed(Recipe, read_resolved(folder / "recipe.yaml"), str(folder / "recipe.yaml"))
    for name in recipe.variants():
        if not any((folder / name / file).exists() for file in _OF_A_MODEL):
            raise UserError(
                f"{folder}: its run is not finished, there is no model in {folder / name}; give the command that "
                "started it again, and then this one"
            )
    return recipe


def _of_run(folder: Path, recipe: Recipe) -> list[Source]:
    """Teacher, plain and mitigated student, as the report of the run names them."""
    mitigated = recipe.needs_counterfactuals
    titles = {"baseline": "plain student", _STUDENT: "mitigated student" if mitigated else "student"}
    found = []
    if recipe.teacher.path is not None:
        found.append(Source("teacher", "teacher", recipe.teacher.as_it_predicts(), "teacher"))
    for name in recipe.variants():
        model = TeacherConfig(path=str(folder / name), trust_remote_code=recipe.trusts_code)
        found.append(Source(titles[name], model_style(name, mitigated), model, name))
    return found


def _checkpoint(path: str, trust_remote_code: bool) -> Source:
    folder = local(path)
    if folder is not None and not any((folder / file).exists() for file in _OF_A_MODEL):
        raise UserError(
            f"{path}: is neither a finished run (it has no recipe.yaml) nor a model (it has no config.json); give the "
            "folder of a run, such as outputs/quickstart, a checkpoint, or a hub id"
        )
    name = folder.resolve().name if folder is not None else path
    return Source(name, "plain", TeacherConfig(path=path, trust_remote_code=trust_remote_code), name.replace("/", "--"))


def local(path: str) -> Path | None:
    """The file or folder of that name; None for a hub id, and for `demo`, whatever lies there: see `model_source`."""
    return Path(path) if path != "demo" and Path(path).exists() else None


def _place(path: str) -> str:
    """Where a path leads, however it is spelled; a hub id as it is."""
    return str(here.resolve()) if (here := local(path)) else path


def _placed(model: TeacherConfig) -> TeacherConfig:
    return replace(model, path=_place(str(model.path)))


def _names(paths: Iterable[str]) -> dict[str, str]:
    """Path -> as much of its end as tells them apart: what lies above is nobody's business on a page."""
    parts = {path: Path(path).resolve().parts for path in paths}
    deepest = max(map(len, parts.values()), default=1)
    for length in range(1, deepest + 1):
        names = {path: "/".join(part.strip("/") for part in of[-length:]) for path, of in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _unlike(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The same with titles and short names that differ: folders of one name get a number."""
    seen: dict[str, int] = {}
    found: list[Source] = []
    for source in sources:
        count = seen[source.short] = seen.get(source.short, 0) + 1
        short = source.short.replace("/", "-").strip("-.")
        one = replace(source, short=short if count == 1 else f"{short}-{count}")
        alike = [str(other.model.path) for other in sources if other.title == source.title]
        names = _names(path for path in alike if local(path)) if len(alike) > 1 else {}
        found.append(replace(one, title=names.get(str(source.model.path), source.title)))
    return tuple(found)


def _reports(runs: dict[str, Recipe], names: dict[str, str]) -> dict[str, str]:
    """Name of a run -> its page, as far as they are there."""
    pages = {names[path]: Path(path) / "report.html" for path in runs}
    return {name: str(page) for name, page in pages.items() if page.is_file()}


def _is_local(prompts: str) -> bool:
    """Whether prompts can be read without asking the hub."""
    folder = prompts.rpartition(":")[0]  # of BOLD, with a domain behind it
    return prompts == DEFAULT_PROMPTS or at_hand(prompts).exists() or (folder != "" and Path(folder).exists())
