"""What is shown -> a folder that a Hugging Face Space runs as it is, and so does any machine with the requirements.

app.py             serves what shown.json says         requirements.txt   exact versions, those that run here
README.md          the Space's head, and what it is    distill/           this package
models/, reports/, wordlists/, prompts.json            whatever is no hub id and does not come with the package
"""

import platform
import re
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import yaml

from distill.base.bundled import at_hand
from distill.base.console import say
from distill.base.errors import UserError
from distill.base.files import PACKAGE, write_folder, write_json
from distill.demo.app import require_gradio
from distill.demo.sources import Shown, Source, local
from distill.models.adapters import adapter_folder
from distill.models.loading import gguf_in, load_model, load_tokenizer, model_source
from distill.text.prompts import DEFAULT_PROMPTS, load_prompts
from distill.text.wordlist import ALONE, bundled_wordlists, files_of, names_in

_SPACE = PACKAGE / "assets" / "demo" / "space"
_SHOWN = "shown.json"
# The CPU builds of torch, without which a Space on CPUs would fetch gigabytes that it has no use for.
_TORCH_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"
_NOT_OURS = shutil.ignore_patterns("__pycache__", "*.pyc", "recipes", ".git")
_NOT_THE_MODEL = shutil.ignore_patterns("checkpoint-*", "optimizer*", "*.partial*", ".git", "manifest.json")
_TOKENIZER = ("*token*.*", "vocab.*", "merges.txt", "spiece.model", "chat_template*")  # beside a model in GGUF
_README = """# {title}

{names}, side by side.

What each model expects next and what the target of the mitigation makes of it, what they write, what a word list does
to a text, and the report of the run. Made by `distill demo --export`.

The figures see only the groups of the word list. The bias is mitigated as far as it was measured, not removed; measure
on your own task and groups before you rely on a model. None of this makes a model fit to decide about people.

Elsewhere than in a Space: `pip install -r requirements.txt && python app.py`.
"""


def export(shown: Shown, folder: Path) -> None:
    """Write the page as a folder, models included where they are no hub ids.

    Args:
        shown: What it shows.
        folder: Where it goes; an earlier export there is replaced.

    Raises:
        UserError: the folder holds something else, gradio is missing, or something cannot be read.
    """
    require_gradio()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / _SHOWN).exists())):
        raise UserError(f"{folder} is not empty, and no exported page; choose another folder for --export")
    pinned = requirements(shown)

    def fill(place: Path) -> None:
        moved = replace(
            shown,
            sources=tuple(_model(source, place) for source in shown.sources),
            wordlist=_wordlist(shown.wordlist, place),
            resolver=_resolver(shown.resolver),
            prompts=_prompts(shown.prompts, place),
            reports=_reports(shown.reports, place),
        )
        shutil.copytree(PACKAGE, place / "distill", ignore=_NOT_OURS)
        shutil.copy(_SPACE / "app.py.txt", place / "app.py")
        shutil.copy(_SPACE / "gitattributes.txt", place / ".gitattributes")
        (place / "requirements.txt").write_text("\n".join([_TORCH_INDEX, *pinned]) + "\n", encoding="utf-8")
        (place / "README.md").write_text(readme(moved), encoding="utf-8")
        write_json(place / _SHOWN, moved.to_dict())

    write_folder(folder, fill)


def requirements(shown: Shown) -> list[str]:
    """Exact versions of what distill and the page import, as they are installed here.

    What these bring in is left to them: a Space adds packages of its own, which must find versions too.

    Raises:
        UserError: distill is not installed, only found on the path.
    """
    try:
        wanted = [line for line in metadata.requires("distill") or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        raise UserError("distill is not installed, so its requirements are unknown: pip install -e '.[demo]'") from None
    wanted += ["gradio"]
    wanted += ["bitsandbytes"] if any(source.model.quantization for source in shown.sources) else []
    models = [source.model for source in shown.sources]
    named = [str(model.path) for model in models if local(str(model.path)) is None]  # local adapters are merged
    wanted += ["peft"] if any(map(adapter_folder, named)) else []
    wanted += ["gguf"] if any(model.gguf_file or gguf_in(str(model.path))[1] for model in models) else []
    return sorted(map(_pinned, wanted))


def _pinned(requirement: str) -> str:
    """`torch>=2.9` -> `torch==2.13.0`: of the build that is installed only the version, which every build has."""
    found = re.match(r"([\w.-]+)(\[[\w,-]+\])?", requirement)
    assert found is not None, requirement
    try:
        version = metadata.version(found[1])
    except metadata.PackageNotFoundError:
        raise UserError(f"the page needs {found[1]}, which is not installed here; pip install {found[1]}") from None
    return f"{found[1]}{found[2] or ''}=={version.partition('+')[0]}"


def readme(shown: Shown) -> str:
    """README.md of a Space, with the head that tells how it is run."""
    runs = ", ".join(shown.reports)
    title = f"distill demo: {runs}" if runs else "distill demo"
    head = {
        "title": title,
        "emoji": "⚖️",
        "colorFrom": "blue",
        "colorTo": "purple",
        "sdk": "gradio",
        "sdk_version": metadata.version("gradio"),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": "app.py",
        "pinned": False,
        "short_description": "A teacher and its students, side by side",
    }
    ids = [
        path for source in shown.sources if "/" in (path := str(source.model.path)) and not path.startswith("models/")
    ]
    if ids:
        head["models"] = ids
    names = ", ".join(source.title for source in shown.sources)
    names = names[:1].upper() + names[1:]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n" + _README.format(
        title=title, names=names
    )


def _model(source: Source, place: Path) -> Source:
    """The same, its folder copied; an adapter is merged into its base, which may lie anywhere."""
    path = local(str(source.model.path))
    if path is None:
        model_source(str(source.model.path))  # a hub id, or `demo`, or nothing at all
        return source
    to = place / "models" / source.short
    if path.is_file():  # in GGUF
        to.mkdir(parents=True)
        for beside in (file for pattern in _TOKENIZER for file in path.parent.glob(pattern)):
            shutil.copy(beside, to)
        to = Path(shutil.copy(path, to))
    elif adapter_folder(str(path)):
        load_model(str(path), source.model.loaded_in, source.model.trust_remote_code).save_pretrained(to)
        load_tokenizer(str(path), source.model.trust_remote_code).save_pretrained(to)
    else:
        shutil.copytree(path, to, ignore=_NOT_THE_MODEL)
    return replace(source, model=replace(source.model, path=to.relative_to(place).as_posix()))


def _wordlist(spec: str, place: Path) -> str:
    """The same, files of the user's copied, with the companions that they name."""
    bundled = bundled_wordlists()
    parts = []
    named = names_in(spec)
    for part in named:
        if part in bundled or part == ALONE:
            parts.append(part)
            continue
        path = at_hand(part)
        to = Path("wordlists", str(len(parts)))  # two lists may be called alike
        (place / to).mkdir(parents=True)
        for file in files_of(path, ALONE not in named):
            shutil.copy(file, place / to / file.name)
        parts.append((to / path.name).as_posix())
    return "+".join(parts)


def _resolver(spec: str) -> str:
    """The same, if it comes with the package or from the hub."""
    kind, _, name = spec.partition(":")
    if kind == "log_linear" or (kind == "teacher" and (not name or local(name) is None)):
        return spec
    say(f"the exported page tells her (his) from her (him) by log_linear, as the resolver {spec} is of this machine")
    return "log_linear"


def _prompts(spec: str, place: Path) -> str:
    """The same, prompts of the user's as one file."""
    if spec == DEFAULT_PROMPTS:
        return spec
    tree: dict[str, dict[str, list[str]]] = {}
    for prompt in load_prompts(spec):
        tree.setdefault(prompt.group, {}).setdefault(prompt.subject, []).append(prompt.text)
    write_json(place / "prompts.json", tree)
    return "prompts.json"


def _reports(reports: dict[str, str], place: Path) -> dict[str, str]:
    """The same, the pages copied."""
    moved = {}
    for number, (name, page) in enumerate(reports.items()):
        (place / "reports").mkdir(exist_ok=True)
        shutil.copy(page, place / "reports" / f"{number}.html")
        moved[name] = f"reports/{number}.html"
    return moved
