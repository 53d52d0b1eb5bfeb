"""Checkpoints and prompts -> continuations side by side, listed words marked by group (`distill generate`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from distill.base.console import counter
from distill.base.highlight import marked, side_by_side
from distill.base.long_input import encodable
from distill.models.architecture import default_device
from distill.models.generation import check_context, generate
from distill.scoring.examples import listed_words
from distill.scoring.measure import ModelSource, context_of, open_model, tokenizer_of, trusted
from distill.text.conversations import chat_prompt
from distill.text.counterfactual import Swapper
from distill.text.prompts import limit_prompts, load_prompts


def read_prompts(spec: str, maximum: int | None = None) -> list[str]:
    """Prompts of a .txt file, one a line, or of any source that `load_prompts` knows.

    Args:
        spec: The file, or the source's name.
        maximum: Take at most this many; of a source with groups, from all of them. None: all.

    Raises:
        UserError: there is no such source, or it is malformed or empty.
    """
    prompts = load_prompts(spec)
    chosen = prompts[:maximum] if Path(spec).suffix == ".txt" else limit_prompts(prompts, maximum)
    return [prompt.text for prompt in chosen]


def continuations(
    checkpoints: Mapping[str, str],
    prompts: Sequence[str],
    swapper: Swapper,
    chat: bool = False,
    trust_remote_code: bool = False,
    **decoding: Any,
) -> dict[str, Any]:
    """What each checkpoint writes after each prompt; all of them draw the same random numbers.

    Args:
        checkpoints: Name -> folder or hub id; one is in memory at a time.
        prompts: Texts to continue.
        swapper: Finds the listed words.
        chat: Whether each checkpoint gets the prompts through its chat template, see `chat_prompt`.
        trust_remote_code: Run code that comes with the checkpoints. Only for sources you trust.
        decoding: Settings of `generate`: samples, max_new_tokens, temperature, top_p, top_k, batch_size, seed.

    Returns:
        `{"groups", "wordlist", "decoding", "prompts": [{"prompt", "words", "texts": {NAME: [{"text", "words"}]}}]}`,
        where words are [start, end, index of the group] of each listed word, in characters of its text.

    Raises:
        UserError: a checkpoint cannot be had, or a prompt does not fit into its context.
    """
    wordlist, prompts = swapper.wordlist, [encodable(prompt) for prompt in prompts]
    rows: list[dict[str, Any]] = [{"prompt": prompt, "words": listed_words(prompt, swapper)} for prompt in prompts]
    for row in rows:
        row["texts"] = {}
    sources = {name: trusted(path, trust_remote_code) for name, path in checkpoints.items()}
    # Of all of them before the first one writes: a mistake shall not wait till then.
    given = {name: _given(name, source, prompts, chat, decoding) for name, source in sources.items()}
    for name, source in sources.items():
        model, tokenizer = open_model(source, default_device())
        progress = counter(f"generating with {name}", "texts")
        texts = generate(model, tokenizer, given[name], progress=progress, **decoding)
        for row, samples in zip(rows, texts, strict=True):
            before = len(row["prompt"])
            row["texts"][name] = [
                {"text": text, "words": listed_words(row["prompt"] + text, swapper, before)} for text in samples
            ]
    return {"groups": list(wordlist.groups), "wordlist": wordlist.name, "decoding": decoding, "prompts": rows}


def _given(
    name: str, source: ModelSource, prompts: Sequence[str], chat: bool, decoding: Mapping[str, Any]
) -> Sequence[str]:
    """The prompts as a checkpoint is given them. Raises UserError, see `chat_prompt` and `check_context`."""
    tokenizer = tokenizer_of(source)
    given = [chat_prompt(prompt, tokenizer) for prompt in prompts] if chat else prompts
    room = decoding["max_new_tokens"], name, decoding.get("max_length")
    check_context(context_of(source), tokenizer, given, *room)
    return given


def print_continuations(found: Mapping[str, Any], console: Console | None = None) -> None:
    """A table for each prompt on a terminal, one column a checkpoint; elsewhere a line for each text.

    Args:
        found: From `continuations`.
        console: Where to.
    """
    console = console or Console()
    groups = found["groups"]

    def shown(of: Mapping[str, Any], key: str) -> Text:
        return marked(of[key], of["words"], console.color_system is not None, groups)

    if not console.is_terminal:
        for row in found["prompts"]:
            console.print(shown(row, "prompt"), soft_wrap=True)
            for name, samples in row["texts"].items():
                for sample in samples:
                    console.print(Text(f"  {name}:").append(shown(sample, "text")), soft_wrap=True)
        return
    for row in found["prompts"]:
        table = side_by_side(list(row["texts"]), console)
        table.title = shown(row, "prompt")
        for samples in zip(*row["texts"].values(), strict=True):
            table.add_row(*(shown(sample, "text") for sample in samples))
        console.print(table)
    if console.color_system is not None:
        legend = Text("marked: ")
        for index, group in enumerate(groups):
            legend.append(marked(group, [(0, len(group), index)], True)).append(" ")
        console.print(legend)
