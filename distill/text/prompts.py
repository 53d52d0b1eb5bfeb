"""Prompt files and BOLD -> prompts."""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.base.bundled import at_hand
from distill.base.errors import UserError, first_line, hub_hint
from distill.base.files import PACKAGE
from distill.base.json_objects import KeyTwiceError, line_of_second, unique_keys
from distill.base.long_input import LONGEST_LINE, encodable, read_text
from distill.text.counterfactual import Swapper

PROMPTS = PACKAGE / "prompts"
DEFAULT_PROMPTS = "occupations"
BOLD_DOMAINS = ("profession", "gender", "race", "religious_ideology", "political_ideology")
_PLACEHOLDER = "{occupation}"


@dataclass(frozen=True)
class Prompt:
    """The beginning of a text.

    Args:
        text: What the model continues; no trailing white space.
        group: The class of subjects it belongs to (an occupation group; a BOLD category).
        subject: What the prompt is about (an occupation; a BOLD article title).
    """

    text: str
    group: str
    subject: str


def load_prompts(spec: str | Path = DEFAULT_PROMPTS) -> list[Prompt]:
    """Prompts by name, from a file, or from BOLD (Dhamala et al. 2021, arXiv 2101.11718).

    Args:
        spec: One of
            - `occupations`: the bundled occupations in the bundled templates;
            - a .tsv file whose header is `group occupation` (put into each line of a templates.txt beside it, else into
              the bundled templates) or `group subject prompt`;
            - a .txt file with one prompt a line, each a subject of its own;
            - a .json file `{group: {subject: [prompt, ...]}}`, the layout of BOLD's own files;
            - a folder that holds BOLD's `*_prompt.json`, or a hub id such as `AmazonScience/bold`; `:DOMAIN` behind
              either chooses a domain (`:gender`), otherwise `profession`.

    Returns:
        The prompts in the order of the source. Trailing white space is cut off: a tokenizer that puts spaces before
        words would otherwise be asked for a word after two spaces.

    Raises:
        UserError: there is no such source, or it is malformed or empty; names the file and line.
    """
    spec = str(spec)
    if spec == DEFAULT_PROMPTS:
        return _read_tsv(PROMPTS / "occupations.tsv")
    path, domain = _split_domain(spec)
    if path.is_dir():
        return _read_json(_bold_file(path, domain or BOLD_DOMAINS[0]))
    if domain and path.is_file():
        raise UserError(
            f"prompts '{spec}': a domain goes behind a BOLD folder or hub id, not a file; leave :{domain} out"
        )
    if path.suffix == ".txt":
        return _read_txt(path)
    if path.exists():
        if path.suffix == ".json":
            return _read_json(path)
        if path.suffix == ".tsv":
            return _read_tsv(path)
        raise UserError(
            f"prompts '{spec}': a .tsv or .json file is expected, or a .txt with one prompt a line, not '{path.suffix}'"
        )
    if path.suffix or spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise UserError(
            f"prompts '{spec}': no such file; give '{DEFAULT_PROMPTS}', a .tsv, .json or .txt file, a BOLD folder or a "
            "hub id"
        )
    return _read_hub(path.as_posix(), domain or BOLD_DOMAINS[0])


def without_listed_words(prompts: Iterable[Prompt], swapper: Swapper) -> tuple[list[Prompt], int]:
    """The prompts that hold no listed word, and how many do: after those, a gendered continuation is agreement."""
    prompts = list(prompts)
    kept = [prompt for prompt in prompts if not swapper.matches(prompt.text)]
    return kept, len(prompts) - len(kept)


def limit_prompts(prompts: Sequence[Prompt], maximum: int | None, seed: int = 0) -> list[Prompt]:
    """At most `maximum` prompts, drawn from all groups in turn, in their original order; `None`: all."""
    if maximum is None or len(prompts) <= maximum:
        return list(prompts)
    order = list(range(len(prompts)))
    random.Random(seed).shuffle(order)
    taken: dict[str, int] = {}
    rank = {}
    for index in order:
        group = prompts[index].group
        rank[index] = taken[group] = taken.get(group, 0) + 1
    chosen = sorted(order, key=lambda index: rank[index])[:maximum]
    return [prompts[index] for index in sorted(chosen)]


def subject_halves(prompts: Sequence[Prompt], source: Sequence[Prompt]) -> tuple[list[int], list[int]]:
    """The places of the prompts of each half of the subjects (occupations): every second one, in the source's order.

    `source` is all that the prompts were drawn from: in every draw, a subject is of the same half.
    """
    order = {subject: place for place, subject in enumerate(dict.fromkeys(prompt.subject for prompt in source))}
    first, second = (
        [place for place, prompt in enumerate(prompts) if order[prompt.subject] % 2 == half] for half in (0, 1)
    )
    return first, second


def _split_domain(spec: str) -> tuple[Path, str | None]:
    before, _, after = spec.rpartition(":")
    return (Path(before), after) if before and after in BOLD_DOMAINS else (at_hand(spec), None)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file without comments and blank ones."""
    text = read_text(path, "give a text file", LONGEST_LINE)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line


def _read_templates(folder: Path) -> list[str]:
    path = folder / "templates.txt"
    path = path if path.exists() else PROMPTS / "templates.txt"
    templates = []
    for number, line in _lines(path):
        if _PLACEHOLDER not in line:
            raise UserError(f"{path}, line {number}: a template needs the placeholder {_PLACEHOLDER}")
        templates.append(line.strip())
    if not templates:
        raise UserError(f"{path}: holds no template; write one a line, with the placeholder {_PLACEHOLDER}")
    return templates


def _read_tsv(path: Path) -> list[Prompt]:
    lines = _lines(path)
    number, header = next(lines, (1, ""))
    columns = [cell.strip() for cell in header.split("\t")]
    if columns not in (["group", "occupation"], ["group", "subject", "prompt"]):
        raise UserError(
            f"{path}, line {number}: the header must be 'group<TAB>occupation' or 'group<TAB>subject<TAB>prompt', "
            f"not '{header}'"
        )
    templates = _read_templates(path.parent) if len(columns) == 2 else []
    prompts = []
    for number, line in lines:
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != len(columns) or not all(cells):
            raise UserError(f"{path}, line {number}: {len(columns)} filled cells are expected: {', '.join(columns)}")
        if templates:
            group, subject = cells
            prompts += [Prompt(template.replace(_PLACEHOLDER, subject), group, subject) for template in templates]
        else:
            group, subject, text = cells
            prompts.append(Prompt(text, group, subject))
    return _not_empty(prompts, str(path))


def _read_txt(path: Path) -> list[Prompt]:
    lines = read_text(path, "give a text file with one prompt a line").split("\n")
    prompts = [Prompt(line.rstrip(), "all", line.rstrip()) for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{path}: holds no prompt; write one a line")
    return prompts


def _read_json(path: Path) -> list[Prompt]:
    text = read_text(path, "give a JSON file")
    try:
        tree = json.loads(text, object_pairs_hook=unique_keys)
    except KeyTwiceError as error:
        line = line_of_second(error.key, text)
        raise UserError(f"{path}{f', line {line}' if line else ''}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    layout = f"{path}: the layout {{group: {{subject: [prompt, ...]}}}} is expected"
    if not isinstance(tree, dict):
        raise UserError(layout)
    prompts = []
    for group, subjects in tree.items():
        if not isinstance(subjects, dict):
            raise UserError(f"{layout}; group '{group}' is no object")
        for subject, texts in subjects.items():
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise UserError(f"{layout}; '{subject}' in group '{group}' is no list of strings")
            prompts += [Prompt(*map(encodable, (text.rstrip(), group, subject))) for text in texts if text.strip()]
    return _not_empty(prompts, str(path))


def _bold_file(folder: Path, domain: str) -> Path:
    for place in (folder, folder / "prompts"):
        if (path := place / f"{domain}_prompt.json").exists():
            return path
    raise UserError(f"{folder}: holds no {domain}_prompt.json; give a BOLD folder or a prompt file")


def _read_hub(name: str, domain: str) -> list[Prompt]:
    import datasets  # only here: its import takes seconds, and local prompts do without it

    try:
        rows = datasets.load_dataset(name, split="train")
    except Exception as error:  # the hub's client raises many kinds, all of which mean: not to be had under this name
        raise UserError(
            f"prompts '{name}': neither a file nor a data set that can be loaded: {first_line(error)}; {hub_hint()}"
        ) from None
    wanted = {"domain", "name", "category", "prompts"}
    if missing := wanted - set(rows.column_names):
        raise UserError(f"prompts '{name}': the data set has no column {', '.join(sorted(missing))}, so it is not BOLD")
    prompts = [
        Prompt(text.rstrip(), row["category"], row["name"])
        for row in rows
        if row["domain"] == domain
        for text in row["prompts"]
        if text.strip()
    ]
    return _not_empty(prompts, f"{name}, domain {domain}")


def _not_empty(prompts: list[Prompt], source: str) -> list[Prompt]:
    if not prompts:
        raise UserError(f"{source}: holds no prompt")
    return prompts
