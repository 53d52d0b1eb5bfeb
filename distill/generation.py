"""Prompts -> continuations, batched and seeded.

    load_prompts(...)            names, files or BOLD        -> list[Prompt]
    without_listed_words(...)    prompts that tell no group  -> list[Prompt], how many were left out
    generate(...)                model, prompts              -> samples per prompt, continuation only

Sampling is inverse-transform sampling from uniform numbers drawn before anything is generated: number (p, s, t) decides
token t of sample s of prompt p. So a text does not depend on its neighbours, and two models that are compared get the
same numbers, which makes their differences less noisy (common random numbers). Rounding differs with the shape of a
batch: where it might decide between two tokens, the text is read once more alone, so that the batch size changes
nothing.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from distill.counterfactual import Swapper, encodable
from distill.errors import UserError, hub_hint
from distill.long_input import read_table, read_whole
from distill.models import special_tokens

PROMPTS = Path(__file__).parent / "prompts"
DEFAULT_PROMPTS = "occupations"
BOLD_DOMAINS = ("profession", "gender", "race", "religious_ideology", "political_ideology")
_PLACEHOLDER = "{occupation}"
# More than float32 changes with the shape of a batch: logits were seen to change by 2e-5, partial sums of probabilities
# by some 1e-7. A wider margin for these costs time: every token with less probability is then near two boundaries.
_LOGIT_ROUNDING = 1e-4
_SUM_ROUNDING = 1e-6

Progress = Callable[[int, int], None]


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


# ---------------------------------------------------------------------------------------------------------- prompts


def load_prompts(spec: str | Path = DEFAULT_PROMPTS) -> list[Prompt]:
    """Prompts by name, from a file, or from BOLD (Dhamala et al. 2021, arXiv 2101.11718).

    Args:
        spec: One of
            - `occupations`: the bundled occupations in the bundled templates;
            - a .tsv file whose header is `group occupation` (put into each line of a templates.txt beside it, else into
              the bundled templates) or `group subject prompt`;
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
    if path.exists():
        if path.suffix == ".json":
            return _read_json(path)
        if path.suffix == ".tsv":
            return _read_tsv(path)
        raise UserError(f"prompts '{spec}': a .tsv or .json file is expected, not '{path.suffix}'")
    if path.suffix or spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise UserError(
            f"prompts '{spec}': no such file; give '{DEFAULT_PROMPTS}', a .tsv or .json file, a BOLD folder or a hub id"
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


def _split_domain(spec: str) -> tuple[Path, str | None]:
    before, _, after = spec.rpartition(":")
    return (Path(before), after) if before and after in BOLD_DOMAINS else (Path(spec), None)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file without comments and blank ones."""
    try:
        text = read_table(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    for number, line in enumerate(text.splitlines(), start=1):
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


def _read_json(path: Path) -> list[Prompt]:
    try:
        tree = json.loads(read_whole(path).decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
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
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"prompts '{name}': neither a file nor a data set that can be loaded: {reason}; {hub_hint()}"
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


# ------------------------------------------------------------------------------------------------------- generation


class _InverseTransformSampler(LogitsProcessor):
    """Leaves one finite score per row: that of the token on which the row's uniform number falls.

    Args:
        model: Reads a row alone where rounding might decide.
        uniforms: (B, T) in [0, 1), one per row and new token.
        lengths: For each row the tokens of its prompt.
        width: Tokens before the first new one, padding included.
        temperature, top_k, top_p: applied in this order, as `generate` does.
    """

    def __init__(
        self, model: Any, uniforms: Tensor, lengths: Sequence[int], width: int, temperature: float, top_k: int,
        top_p: float,
    ) -> None:  # fmt: skip
        self.model, self.uniforms, self.lengths, self.width = model, uniforms, lengths, width
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = self.uniforms[:, input_ids.shape[1] - self.width]
        chosen, sure = self._draw(scores, uniform)
        for row in (~sure).nonzero()[:, 0].tolist():
            ids = input_ids[row : row + 1, self.width - self.lengths[row] :]
            alone = self.model(input_ids=ids, use_cache=False).logits[:, -1]
            chosen[row], _ = self._draw(alone, uniform[row : row + 1])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def _draw(self, scores: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """(B, V) scores and (B,) uniform numbers -> (B, 1) token ids, and (B,) whether rounding can not change them.

        The tokens keep the order of the vocabulary: sorted by probability, near ones would change places by rounding.
        """
        scores = scores.float() / self.temperature
        sure = torch.ones_like(uniform, dtype=torch.bool)
        margin = torch.full_like(uniform, _SUM_ROUNDING)
        if 0 < self.top_k < scores.shape[1]:
            best = scores.topk(self.top_k + 1, dim=1).values
            sure = best[:, -2] - best[:, -1] > _LOGIT_ROUNDING
            scores = scores.masked_fill(scores < best[:, -2:-1], -torch.inf)
        probabilities = scores.softmax(dim=1)
        if self.top_p < 1:
            ordered, order = probabilities.sort(dim=1, descending=True)
            before = ordered.cumsum(dim=1, dtype=torch.float64) - ordered
            kept = before < self.top_p
            number = kept.sum(dim=1, keepdim=True)
            last, next_one = (ordered.gather(1, (number - k).clamp(max=ordered.shape[1] - 1)) for k in (1, 0))
            # Tokens that rounding might keep or drop: their mass moves the places of all the others.
            alike = _LOGIT_ROUNDING * last
            tied = (last - next_one <= alike) & ((ordered - last).abs() <= alike)
            margin = margin + (ordered * (tied | ((before - self.top_p).abs() <= _SUM_ROUNDING))).sum(dim=1)
            probabilities = probabilities * torch.zeros_like(kept).scatter_(1, order, kept)
        # In float32, sums over a large vocabulary would not resolve its rare tokens.
        cumulative = probabilities.cumsum(dim=1, dtype=torch.float64)
        total = cumulative[:, -1:]
        near = torch.stack([uniform, uniform - margin, uniform + margin], dim=1)
        place = torch.searchsorted(cumulative, near * total, right=True)
        # Rounding may leave the last partial sums equal to the total: never step onto a token without probability.
        place = torch.minimum(place, (cumulative < total).sum(dim=1, keepdim=True))
        return place[:, :1], sure & (place == place[:, :1]).all(dim=1)


@contextmanager
def _plain_decoding(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Hide the generation settings that come with a checkpoint (penalties, beams, forced tokens).

    `generate` fills what a caller leaves open from them, and every model must be measured with the same decoding.
    """
    own, training = model.generation_config, model.training
    model.generation_config = config
    model.eval()
    try:
        yield
    finally:
        model.generation_config = own
        model.train(training)


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[list[str]]:
    """Sample continuations.

    Args:
        model: A causal language model with `generate`; its own generation settings play no part.
        tokenizer: Its tokenizer; one without a pad token (GPT-2's) will do.
        prompts: Texts to continue; each is given after the start token, as every training document is.
        samples: Continuations per prompt.
        max_new_tokens: Length at which a continuation is cut off, in tokens; the end token ends it earlier.
        temperature: Softmax temperature, above 0.
        top_p: Nucleus of sampling, as a probability; 1 keeps all.
        top_k: Sample among this many most likely tokens; 0: all.
        batch_size: Texts generated side by side; it changes the speed and not the texts (for a model in float32).
        seed: Seed of the sampling.
        progress: Called with (texts done, texts in all) after each batch.

    Returns:
        For each prompt its `samples` continuations, without the prompt and without special tokens.

    Raises:
        UserError: a prompt and its continuation do not fit into the model's context, or a setting is out of range.
    """
    if temperature <= 0:
        raise UserError(f"temperature must be above 0, not {temperature}; for nearly greedy decoding take top_k=1")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, not {top_p}; 1 keeps the whole distribution")
    start, end = special_tokens(tokenizer)
    encoded = [[start, *ids] for ids in _encode(tokenizer, prompts)]
    _check_context(model, prompts, encoded, max_new_tokens)
    uniforms = np.random.default_rng(seed).random((len(prompts), samples, max_new_tokens))
    # Neighbours of one length need no padding, and padding costs time.
    jobs = sorted(((p, s) for p in range(len(prompts)) for s in range(samples)), key=lambda job: len(encoded[job[0]]))
    texts = [[""] * samples for _ in prompts]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=end, pad_token_id=pad, bos_token_id=start
    )
    with _plain_decoding(model, config):
        for first in range(0, len(jobs), batch_size):
            batch = jobs[first : first + batch_size]
            width = max(len(encoded[p]) for p, _ in batch)
            rows = [[pad] * (width - len(encoded[p])) + encoded[p] for p, _ in batch]
            mask = [[0] * (width - len(encoded[p])) + [1] * len(encoded[p]) for p, _ in batch]
            sampler = _InverseTransformSampler(
                model, torch.from_numpy(uniforms[tuple(zip(*batch, strict=True))]).to(model.device),
                [len(encoded[p]) for p, _ in batch], width, temperature, top_k, top_p,
            )  # fmt: skip
            output = model.generate(
                input_ids=torch.tensor(rows, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                logits_processor=LogitsProcessorList([sampler]),
            )
            new = [row[: row.index(end)] if end in row else row for row in output[:, width:].tolist()]
            for (p, s), text in zip(batch, _decode(tokenizer, [encoded[p] for p, _ in batch], new), strict=True):
                texts[p][s] = text
            if progress:
                progress(first + len(batch), len(jobs))
    return texts


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


def _decode(tokenizer: Any, before: list[list[int]], new: list[list[int]]) -> list[str]:
    """Text of the new tokens. Decoded behind their prompt, because some decoders drop a text's first space."""
    settings = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    prefixes = tokenizer.batch_decode(before, **settings)
    wholes = tokenizer.batch_decode([a + b for a, b in zip(before, new, strict=True)], **settings)
    alone = tokenizer.batch_decode(new, **settings)
    return [
        whole.removeprefix(prefix) if whole.startswith(prefix) else text
        for prefix, whole, text in zip(prefixes, wholes, alone, strict=True)
    ]


def _check_context(model: Any, prompts: Sequence[str], encoded: list[list[int]], max_new_tokens: int) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(range(len(encoded)), key=lambda p: len(encoded[p]), default=None)
    if limit is None or longest is None or len(encoded[longest]) + max_new_tokens <= limit:
        return
    raise UserError(
        f"the prompt '{prompts[longest][:60]}' ({len(encoded[longest])} tokens with the start token) and "
        f"max_new_tokens {max_new_tokens} exceed the model's context of {limit} tokens; lower max_new_tokens"
    )
