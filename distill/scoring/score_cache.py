"""What was measured before: outcomes by the hash of everything that decides them, one JSON file each.

A stopped evaluation goes on at the metric at which it was stopped, and a model that was scored before is not scored
again. Each file holds the hash of its content; where the two do not fit, it is measured anew.
"""

import ast
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from distill.base.console import say
from distill.base.files import PACKAGE, write_json
from distill.base.integrity import file_hash
from distill.metrics import Outcome
from distill.models.loading import commit_of


class ScoreCache:
    """Outcomes of one set of data and settings.

    folder: where the files lie; None keeps nothing.
    given: whatever decides an outcome beside model and metric, ready for JSON.
    measured: how many outcomes were not there.
    """

    def __init__(self, folder: Path | None, given: Mapping[str, Any]) -> None:
        self._folder = folder
        self._given = {**given, "code": _code_hash()}
        self.measured = 0

    def outcomes(self, model: str, metric: str, measure: Callable[[], dict[str, Outcome]]) -> dict[str, Outcome]:
        """The outcomes of a metric, from the cache where they lie there.

        Args:
            model: Hash of the model.
            metric: Name of the metric.
            measure: Called where they do not.
        """
        path = self._path(model, metric)
        kept = self._read(path)
        try:
            return {name: _from_json(fields) for name, fields in kept.items()}
        except (AttributeError, KeyError, TypeError):
            pass
        self.measured += 1
        found = measure()
        self._write(path, {name: _to_json(outcome) for name, outcome in found.items()})
        return found

    def keep_texts(self, model: str, texts: dict[str, Any]) -> dict[str, Any]:
        """Keeps sampled texts, and gives them back."""
        self._write(self._path(model, "texts"), texts)
        return texts

    def texts(self, model: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """The texts that were kept, made anew where they are damaged; None where none were."""
        path = self._path(model, "texts")
        if path is None or not path.exists():
            return None
        kept = self._read(path)
        return kept if isinstance(kept, dict) else self.keep_texts(model, make())

    def _path(self, model: str, metric: str) -> Path | None:
        if self._folder is None:
            return None
        content = json.dumps([self._given, model, metric], sort_keys=True, default=str)
        return self._folder / f"{metric}-{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"

    def _read(self, path: Path | None) -> Any:
        if path is None or not path.exists():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["sha256"] == content_hash(kept["content"]):
                return kept["content"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        say(f"{path} is damaged; measuring again")
        return None

    def _write(self, path: Path | None, content: Any) -> None:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = json.loads(json.dumps(content))  # as it will be read
            write_json(path, {"sha256": content_hash(content), "content": content})


def content_hash(content: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


Stamp = tuple[tuple[str, int, int], ...]


def stamp(path: str | None) -> Stamp | str | None:
    """What tells whether a file or folder changed: names, sizes and times of its files; the path if none is there."""
    if path is None:
        return None
    root = Path(path)
    if not root.exists():
        return path
    files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
    return tuple((str(p.relative_to(root)), p.stat().st_size, p.stat().st_mtime_ns) for p in files)


def model_version(path: str | None, revision: str | None = None) -> str | None:
    """What tells one model from another that came by the same name: a hash of a folder's content, a hub id's commit.

    An id that neither the hub nor its cache knows stands for itself, and whoever loads it tells.
    """
    if path is None:
        return None
    if Path(path).exists():
        return _content_of(path, stamp(path))
    commit = commit_of(path, revision)
    return f"{path} {commit}" if commit else path


@cache
def _content_of(path: str, stamped: Stamp) -> str:
    """Hash over names and content of the files of a folder, read once while its stamp stays the same."""
    root = Path(path)
    return content_hash([(name, file_hash(root / name)) for name, _, _ in stamped])


def measuring_code(package: Path = PACKAGE) -> list[Path]:
    """The files that decide what is measured: the metrics with the sentences beside them, `measure`, and all imports.

    Read from the import statements, so that no list has to be kept, and so that a change of a report's wording, of
    training or of a command measures nothing again. The teachers of a study that decode from the target, or behind a
    prompt, are among them: their hashes know weights, target and prompt, and the rest of such a model is code.
    """
    found: set[Path] = set()
    of_metrics = (path for kind in ("py", "tsv") for path in (package / "metrics").rglob(f"*.{kind}"))
    decoding = {package / "models/two_view.py", package / "study/self_debiasing.py"}
    waiting = {*of_metrics, package / "scoring/measure.py", *decoding}
    while waiting:
        path = waiting.pop()
        found.add(path)
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):  # what is imported from a package may be a module of it
                names = [node.module or "", *(f"{node.module}.{name}" for name in names)]
            waiting |= {file for name in names for file in _files(name, package)} - found
    return sorted(found)


def _files(module: str, package: Path) -> list[Path]:
    """The files that importing a module of this package runs; not the package's own, which only tells its names."""
    first, *rest = module.split(".")
    if first != "distill" or not rest:
        return []
    wings = [package.joinpath(*rest[:depth], "__init__.py") for depth in range(1, len(rest) + 1)]
    return [path for path in (*wings, package.joinpath(*rest).with_suffix(".py")) if path.exists()]


@cache
def _code_hash() -> str:
    """Of the code that measures and the versions of what it measures with."""
    digest = hashlib.sha256()
    for path in measuring_code():
        digest.update(path.read_bytes())
    for package in ("torch", "transformers", "tokenizers", "numpy", "vaderSentiment"):
        version = installed_version(package)
        digest.update((f"{package} {version}" if version else f"no {package}").encode())
    return digest.hexdigest()


def installed_version(package: str) -> str | None:
    """Of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _to_json(outcome: Outcome) -> dict[str, Any]:
    return asdict(outcome) | {"drawn": [value if math.isfinite(value) else None for value in outcome.drawn]}


def _from_json(fields: dict[str, Any]) -> Outcome:
    return Outcome(**fields | {"drawn": tuple(math.nan if value is None else value for value in fields["drawn"])})
