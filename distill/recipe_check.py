"""argv -> a checked recipe: the command line of a run, and settings that cannot work together."""

import argparse
import difflib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache, partial
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import jsonargparse

from distill.base.console import QUIET, QUIET_HELP
from distill.base.errors import HUB_TOKEN, UserError
from distill.objective.settings import require_sound
from distill.recipe import (
    MOST_CANARIES,
    CorpusConfig,
    FederationConfig,
    LoraConfig,
    PartitionConfig,
    PrivacyConfig,
    Recipe,
    ScoreConfig,
    ServerConfig,
    merge,
    read_recipe_file,
    reject_unknown_keys,
    section_type,
)

LARGEST_SEED = 2**32 - 1  # of NumPy's generator, which transformers seeds too
MOST_CLIENTS = 1_000_000
LARGEST_ALPHA = 1e6  # nobody's share is off by more than a few thousandths of it; far beyond, NumPy's draw overflows


def _dotted_names(section: type, prefix: str = "") -> list[str]:
    names = []
    for f in fields(section):
        inner = section_type(f.type)
        names += _dotted_names(inner, f"{prefix}{f.name}.") if inner else [prefix + f.name]
    return names


def build_parser() -> jsonargparse.ArgumentParser:
    """The command line of a run: `--config FILE` and one option for every key of a recipe."""
    parser = jsonargparse.ArgumentParser(
        prog="distill train",
        exit_on_error=False,
        description="Distil a causal language model into a smaller student while mitigating gender bias.",
    )
    parser.add_argument(
        "--config",
        action="config",
        help="Recipe, by name (see distill recipes) or file; options override its keys, and so does a second one.",
    )
    # Left out of the namespace unless given, so that --print_config shows a recipe's keys alone.
    parser.add_argument(QUIET, action="store_true", default=argparse.SUPPRESS, help=QUIET_HELP)
    parser.add_class_arguments(Recipe)
    return parser


def parse_recipe(argv: Sequence[str]) -> Recipe:
    """Turn command-line arguments into a checked recipe.

    Args:
        argv: Arguments without the program's name, e.g. `["--config", "debug", "--seed", "1"]`.

    Raises:
        UserError: an unknown key, a value of the wrong kind, or settings that contradict each other.
        SystemExit: after `--help` or `--print_config`.
    """
    arguments, sources = [], []
    values: dict[str, Any] = {}
    queue = list(argv)
    while queue:
        item = queue.pop(0)
        option, _, inline = item.partition("=")
        if option != "--config":
            arguments.append(item)
            continue
        if not inline and not queue:
            raise UserError("option --config needs a recipe, by name or path, e.g. quickstart")
        sources.append(inline or queue.pop(0))
        values = merge(values, read_recipe_file(sources[-1]))
    source = " and ".join(sources) or "the command line"
    if sources:
        # The parser gets the merged content, because `base:` is our own key, and because of two recipes it would keep
        # the later one's `trainer` alone.
        arguments = ["--config", _as_yaml(values), *arguments]
    # Before anything is shown, by --print_config or in a message.
    _reject_tokens(arguments, source)
    recipe: Recipe = _parsed(build_parser(), arguments, Recipe, source, "; see --help for what it takes")
    check_recipe(recipe)
    return recipe


def _as_yaml(values: Mapping[str, Any], default: Callable[[Any], Any] | None = None) -> str:
    """Values as YAML that every reader of it takes: as JSON, but JSON's surrogate pairs are no YAML."""
    text = json.dumps(values, ensure_ascii=False, default=default)
    return re.sub(r"[^ -~]", lambda c: f"\\u{ord(c[0]):04x}" if c[0] <= "\uffff" else f"\\U{ord(c[0]):08x}", text)


def _reject_tokens(arguments: Sequence[str], source: str) -> None:
    if any(
        HUB_TOKEN.search(argument) or re.search(r"(?<![A-Za-z])hub_token(?![A-Za-z])", argument)
        for argument in arguments
    ):
        raise UserError(
            f"{source}: holds a token of the model hub, which would end up in the run's files; leave it out, and log "
            "in with `hf auth login` or the environment variable HF_TOKEN"
        )


def recipe_of(values: Mapping[str, Any], source: str) -> Recipe:
    """A checked recipe from nested keys.

    Args:
        values: As `read_recipe_file` returns them.
        source: Where they come from, for messages.

    Raises:
        UserError: see `parse_recipe`.
    """
    recipe: Recipe = typed(Recipe, values, source)
    check_recipe(recipe)
    return recipe


@cache
def _key_parser(section: type) -> jsonargparse.ArgumentParser:
    """Of nested keys alone, kept: to make one takes longer than to parse."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(section)
    return parser


def typed(section: type, values: Mapping[str, Any], source: str) -> Any:
    """Nested keys, each of the type that its field has, as a recipe and all other files of settings are read.

    Args:
        section: The dataclass: `Recipe`, one of its sections, `Study`.
        values: As `read_yaml` returns them.
        source: Where they come from, for messages.

    Returns:
        An object of that dataclass. What the values mean is not looked at, see `check_recipe`.

    Raises:
        UserError: an unknown key, a value of the wrong kind, or a token of the hub.
    """
    reject_unknown_keys(values, section, source)
    hint = "; see distill train --help for what it takes" if section is Recipe else ""
    try:
        content = _as_yaml(values, _as_text)
    except TypeError as error:
        raise UserError(f"{source}: {error}; give text, numbers, lists and dictionaries") from None
    _reject_tokens([content], source)
    return _parsed(_key_parser(section), ["--config", content], section, source, hint)


def _as_text(value: Any) -> str:
    """What a notebook gives and JSON does not know: paths."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} is no value of a recipe")


def _parsed(
    parser: jsonargparse.ArgumentParser, arguments: Sequence[str], section: type, source: str, hint: str
) -> Any:
    try:
        values = parser.parse_args(arguments).as_dict()
    except jsonargparse.ArgumentError as error:
        raise UserError(parser_message(error, section, arguments, source, hint)) from None
    except RecursionError:
        raise UserError(f"{source}: its values are nested too deep") from None
    except OverflowError:
        raise UserError(f"{source}: a whole number of hundreds of digits stands for a number{hint}") from None
    _reject_no_values(section, values, partial(_place, arguments, source), hint)
    return _from_dict(section, values)


def _place(arguments: Sequence[str], source: str, key: str) -> str:
    """Where a key was given: as an option, or else in the file."""
    is_option = key != "config" and any(word.partition("=")[0] == f"--{key}" for word in arguments)
    return f"option --{key}" if is_option else f"{source}: key '{key}'"


def _reject_no_values(
    section: type, values: Mapping[str, Any], place: Callable[[str], str], hint: str, prefix: str = ""
) -> None:
    """Raises UserError for what the parser takes: None for anything in a file, and numbers that are not finite."""
    for f in fields(section):
        key = f"{prefix}{f.name}"
        if inner := section_type(f.type):
            _reject_no_values(inner, values[f.name], place, hint, f"{key}.")
        elif f.name in values and values[f.name] is None and NoneType not in get_args(f.type):
            raise UserError(f"{place(key)} is null, but must be {_wanted(f.type)}{hint}")
        elif isinstance(values.get(f.name), float) and not math.isfinite(values[f.name]):
            raise UserError(f"{place(key)} is {values[f.name]}, but must be a finite number{hint}")


def _from_dict(section: type, values: Mapping[str, Any]) -> Any:
    known = {f.name: section_type(f.type) for f in fields(section)}
    given = {key: value for key, value in values.items() if key in known}
    return section(**{k: _from_dict(inner, v) if (inner := known[k]) else v for k, v in given.items()})


_KINDS: dict[Any, str] = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
_SEVERAL: dict[Any, str] = {float: "numbers", int: "whole numbers", str: "texts"}


def _wanted(annotation: Any) -> str:
    """What a field takes, in words: `a whole number or null`."""
    kinds = get_args(annotation)
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, kinds))}"
    if NoneType in kinds:
        return " or ".join([*(_wanted(kind) for kind in kinds if kind is not NoneType), "null"])
    if get_origin(annotation) in (list, tuple):
        return f"a list of {_SEVERAL.get(kinds[0], 'values')} in brackets"
    return _KINDS.get(annotation, "keys and values in braces")


def _annotation(section: type, key: str) -> Any:
    """That of the field behind a dotted key; None where there is none."""
    name, _, rest = key.partition(".")
    found = next((f.type for f in fields(section) if f.name == name), None)
    inner = section_type(found)
    return _annotation(inner, rest) if inner and rest else None if rest else found


def parser_message(error: Exception, section: type, arguments: Sequence[str], source: str, hint: str) -> str:
    """What jsonargparse objects to, in one sentence without names of Python's types.

    Args:
        error: Its ArgumentError.
        section: The dataclass that the keys are fields of.
        arguments: What was parsed: tells an option from a key of the file.
        source: The file, or whatever else holds the keys.
        hint: Where to read on, to be put behind.
    """
    message = " ".join(str(error).split())
    if "unrecognized arguments" in message:
        word = message.split("unrecognized arguments:", 1)[1].split()[0]
        name = word.partition("=")[0].lstrip("-")
        # A misspelt section hides the right key: compare the last part too.
        known = _dotted_names(section)
        known = [key for key in known if key != name]  # one that is known, but not to this command
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6) or [
            k for k in known if k.split(".")[-1] == name.split(".")[-1]
        ]
        hint = f"did you mean --{near[0]}?" if near else "see --help for all options."
        return f"unknown option '{word}'; {hint}"
    if message.startswith("Parser key"):
        quoted, _, rest = message.removeprefix("Parser key ").partition(":")
        key = quoted.strip(' "')
        given, wanted = re.search(r".*(?:Got|Given) value: (.*)$", rest), _annotation(section, key)
        where = _place(arguments, source, key)
        if given is None and section_type(wanted):
            return f"{where} must hold {_wanted(wanted)}{hint}"
        if given is None or wanted is None:
            return f"{where}: {rest.strip().rstrip('.')}{hint}"
        return f"{where} is {given[1]}, but must be {_wanted(wanted)}{hint}"
    return f"{source}: {message}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def check_recipe(recipe: Recipe) -> None:
    """Reject settings that cannot work before anything is loaded or written.

    What only the libraries know is checked where they are loaded, and before anything is written: `trainer` by
    `training.arguments`, the names of metrics by `metrics.chosen`, prompts by `scoring.measure`.

    Raises:
        UserError: names the key, its value and what is allowed.
    """
    _check_objective(recipe)
    check_seed(recipe.seed)
    _require(recipe.block_length >= 8, f"block_length is {recipe.block_length}, but must be at least 8 tokens")
    _check_text("corpus", recipe.corpus)
    _check_text("held_out", recipe.held_out)
    _require(
        recipe.held_out.pack == "before_training",
        "held_out.pack is while_training, but held-out text is never trained on; leave the key out",
    )
    _require(
        recipe.held_out.mask == "none",
        "held_out.mask is assistant, but held-out text is never trained on; leave the key out",
    )
    _require(
        recipe.corpus.mask == "none" or recipe.corpus.source != "teacher",
        "corpus.mask is assistant, but text sampled from the teacher has no roles; set corpus.source to files or hub",
    )
    if recipe.corpus.pack == "while_training":
        _check_streamed(recipe)
    if recipe.teacher.path is None:
        _check_without_teacher(recipe)
    _require(
        not (recipe.teacher.cache_hidden_states and recipe.teacher.shard),
        "teacher.cache_hidden_states and teacher.shard are both true, but all processes must run a sharded teacher "
        "equally often, and a cached block spares one of them its turn; leave one of the two out",
    )
    if recipe.teacher.quantization is not None or recipe.teacher.gguf_file is not None:
        _check_small_teacher(recipe)
    _check_student(recipe)
    _check_audit(recipe)
    _check_privacy(recipe)
    _check_federation(recipe)
    check_scores(recipe.scores)


#: Key of `ScoreConfig` -> the least that it may be, and what that is; null is always in range where a key takes it.
_LEAST: dict[str, tuple[int, str]] = {
    "max_prompts": (1, "1; null: all"),
    "samples": (1, "1 continuation"),
    "max_new_tokens": (1, "1 token"),
    "max_length": (2, "2 tokens; null: as long as max_new_tokens says"),
    "top_k": (0, "1 token, or 0 for all"),
    "batch_size": (1, "1; null: as the device takes"),
    "bootstrap": (0, "1, better 1000, or 0 for no intervals"),
    "context": (2, "2 tokens; null: as long as the models take"),
    "stride": (1, "1 token; null: half of the context"),
    "probe_steps": (0, "1 step, 0 for never, or null for every save"),
}


def check_scores(scores: ScoreConfig, prefix: str = "scores.") -> None:
    """Raises a UserError for a number that nothing could be measured with; keys are named behind the prefix."""
    for key, (least, told) in _LEAST.items():
        value = getattr(scores, key)
        _require(value is None or value >= least, f"{prefix}{key} is {value}, but must be at least {told}")
    _check_sampling(prefix, scores.temperature, scores.top_p, "; for nearly greedy decoding set top_k to 1")


def _check_sampling(prefix: str, temperature: float, top_p: float, hint: str = "") -> None:
    _require(temperature > 0, f"{prefix}temperature is {temperature}, but must be above 0{hint}")
    _require(0 < top_p <= 1, f"{prefix}top_p is {top_p}, but must be above 0 and at most 1, which keeps all")


def check_seed(seed: int) -> None:
    """Raises a UserError for a seed that NumPy's generator cannot take."""
    _require(0 <= seed <= LARGEST_SEED, f"seed is {seed}, but must be at least 0 and at most {LARGEST_SEED}")


def _check_audit(recipe: Recipe) -> None:
    audit, scores = recipe.audit, recipe.scores
    _require(
        0 <= audit.canaries <= MOST_CANARIES and audit.canaries != 1,
        f"audit.canaries is {audit.canaries}, but must be 2 to {MOST_CANARIES}, half of which are left out; 0 for none",
    )
    _require(audit.members >= 0, f"audit.members is {audit.members}, but must be at least 0 documents")
    _require(
        bool(audit.repeats) and all(often > 0 for often in audit.repeats),
        f"audit.repeats is {audit.repeats}, but must say how often canaries stand in the text, each at least 1",
    )
    if audit.canaries or audit.members:
        _require(
            recipe.corpus.pack == "before_training",
            "audit draws from all of the text, but corpus.pack is while_training; set it to before_training",
        )
    for key in ("members", "others") if audit.members else ():
        _require(
            getattr(scores, key) is None,
            f"scores.{key} names a file, but audit.members draws its own; leave one of the two out",
        )
    _require(
        not audit.canaries or scores.canaries is None,
        "scores.canaries names a file, but audit.canaries draws its own; leave one of the two out",
    )


def _check_privacy(recipe: Recipe) -> None:
    privacy, student = recipe.privacy, recipe.student
    if privacy.epsilon is None:
        _require(
            privacy == PrivacyConfig(),
            "privacy.epsilon is null, so that the other keys of privacy have no effect; set it, or leave them out",
        )
        return
    _require(privacy.epsilon > 0, f"privacy.epsilon is {privacy.epsilon}, but must be above 0; null for no privacy")
    _require(
        privacy.delta is None or 0 < privacy.delta < 1,
        f"privacy.delta is {privacy.delta}, but must be a probability above 0 and below 1; null: 1 / documents",
    )
    _require(privacy.clip > 0, f"privacy.clip is {privacy.clip}, but must be above 0")
    _require(privacy.batch_size >= 1, f"privacy.batch_size is {privacy.batch_size}, but must be at least 1 document")
    _require(
        recipe.corpus.source != "teacher",
        "privacy.epsilon is set, and corpus.source is teacher, but epsilon would count texts that were sampled, and "
        "say nothing of those that the teacher was trained on; set corpus.source to files or hub, or leave privacy out",
    )
    _require(
        student.tokenizer != "train",
        "privacy.epsilon is set, and student.tokenizer is train, but a tokenizer tells of the text that it was trained "
        "on, which epsilon does not cover; name a tokenizer",
    )
    _require(
        recipe.corpus.pack == "before_training",
        "privacy.epsilon is set, and corpus.pack is while_training, but documents are drawn from all of the text; set "
        "it to before_training",
    )
    _require(
        not recipe.teacher.shard,
        "privacy.epsilon and teacher.shard are both set, but all processes must run a sharded teacher equally often, "
        "and the documents that a step draws may give one of them a turn more; leave one of the two out",
    )
    _require(
        not student.lora.r,
        "privacy.epsilon and student.lora.r are both set, which was not tried together; leave one of the two out",
    )
    _require(
        not recipe.loss.pairing,
        "privacy.epsilon and loss.pairing are both set, but the gradient of a pairing is not clipped document by "
        "document; leave one of the two out",
    )
    _require(
        recipe.on_nonfinite == "stop",
        "privacy.epsilon is set, and on_nonfinite is skip, but which step is left out tells of what it read, which "
        "epsilon does not cover; set on_nonfinite to stop",
    )


def _check_federation(recipe: Recipe) -> None:
    config, corpus, trainer = recipe.federation, recipe.corpus, recipe.trainer
    _require(
        corpus.label is None or corpus.source == "files",
        f"corpus.label is '{corpus.label}', but only documents of files are labelled; set corpus.source to files",
    )
    _require(
        corpus.label is None or corpus.document_start is None,
        f"corpus.label is '{corpus.label}', but corpus.document_start joins rows that may differ in it; leave one out",
    )
    _require(recipe.held_out.label is None, "held_out.label is set, but held-out text is not shared out; leave it out")
    _require(config.clients >= 0, f"federation.clients is {config.clients}, but must be at least 1; 0: no federation")
    if config.clients == 0:
        _require(
            config == FederationConfig(),
            "federation.clients is 0, so that the other keys of federation have no effect; say how many there are",
        )
        return
    _require(
        config.clients <= MOST_CLIENTS,
        f"federation.clients is {config.clients}, but must be at most {MOST_CLIENTS:,}: one process draws the shares "
        "of all of them",
    )
    _check_rounds(config)
    _check_server(config)
    _check_partition(config.partition)
    if recipe.is_private:
        _require(
            recipe.privacy.delta is not None,
            "federation.clients and privacy.epsilon are both set, and privacy.delta is null, but no client knows how "
            "many documents the others hold; set it, to less than 1 / the documents of all",
        )
        _require(
            config.algorithm != "prox",
            "federation.algorithm is prox, and privacy.epsilon is set, which was not tried together; take avg or opt",
        )
        _require(
            not config.client_metrics,
            "federation.client_metrics and privacy.epsilon are both set, but scores of each client's text tell of that "
            "text, which epsilon does not cover; leave client_metrics out",
        )
    if config.partition.by == "label" and config.partition.label == "corpus":
        _require(
            corpus.label is not None,
            "federation.partition.label is corpus, but corpus.label is missing; name a column of the files, or file",
        )
    _require(
        corpus.pack == "before_training",
        "corpus.pack is while_training, but clients of a federation pack their text before; leave it out",
    )
    for key, none in (("max_steps", (-1, None)), ("num_train_epochs", (None,)), ("report_to", ("none", None))):
        _require(
            trainer.get(key, none[0]) in none,
            f"trainer.{key} is {trainer.get(key)}, but a client makes federation.local_steps steps a round, in a "
            f"training of its own; {'set it to -1' if key == 'max_steps' else 'leave it out'}",
        )


def _check_rounds(config: FederationConfig) -> None:
    for key in ("rounds", "local_steps", "periods"):
        value = getattr(config, key)
        _require(value >= 1, f"federation.{key} is {value}, but must be at least 1")
    _require(
        config.periods <= config.rounds,
        f"federation.periods is {config.periods}, but there are {config.rounds} rounds; a period has at least one",
    )
    for key in ("fraction", "min_fraction"):
        value = getattr(config, key)
        _require(0 < value <= 1, f"federation.{key} is {value}, but must be above 0 and at most 1")
    _require(
        config.deadline is None or config.deadline > 0,
        f"federation.deadline is {config.deadline}, but must be above 0 seconds, or null",
    )
    _require(config.mu >= 0, f"federation.mu is {config.mu}, but must be at least 0")
    _require(
        config.algorithm == "prox" or config.mu == FederationConfig().mu,
        f"federation.mu is {config.mu}, but federation.algorithm is {config.algorithm}; set that to prox, or drop mu",
    )


def _check_server(config: FederationConfig) -> None:
    server, default = config.server, ServerConfig()
    _require(
        config.algorithm == "opt" or server == default,
        f"federation.server is set, but federation.algorithm is {config.algorithm}; set it to opt, or leave server out",
    )
    for key in ("momentum", "beta2"):
        value = getattr(server, key)
        _require(0 <= value < 1, f"federation.server.{key} is {value}, but must be at least 0 and below 1")
    for key in ("lr", "tau"):
        value = getattr(server, key)
        _require(value > 0, f"federation.server.{key} is {value}, but must be above 0")
    for key in ("beta2", "tau"):
        value = getattr(server, key)
        _require(
            server.optimizer == "adam" or value == getattr(default, key),
            f"federation.server.{key} is {value}, but federation.server.optimizer is {server.optimizer}; set that to "
            f"adam, or drop {key}",
        )


def _check_partition(partition: PartitionConfig) -> None:
    alpha, default = partition.alpha, PartitionConfig()
    _require(
        alpha > 0,
        f"federation.partition.alpha is {alpha}, but must be above 0: near 0 one client takes all of a kind",
    )
    _require(
        alpha <= LARGEST_ALPHA,
        f"federation.partition.alpha is {alpha}, but must be at most {LARGEST_ALPHA:,.0f}, which is as even as can be",
    )
    _require(partition.clusters >= 2, f"federation.partition.clusters is {partition.clusters}, but must be at least 2")
    for key, by in (("label", "label"), ("clusters", "cluster")):
        value = getattr(partition, key)
        _require(
            partition.by == by or value == getattr(default, key),
            f"federation.partition.{key} is {value}, but federation.partition.by is {partition.by}; set that to {by}, "
            f"or drop {key}",
        )


def _check_small_teacher(recipe: Recipe) -> None:
    """Of a teacher that is quantised, or read from a GGUF file."""
    teacher, init = recipe.teacher, recipe.student.init
    asked = f"teacher.quantization is {teacher.quantization}"
    _require(teacher.path is not None, "teacher.path is null, but teacher.quantization or gguf_file is set; name one")
    _require(
        teacher.quantization is None or teacher.gguf_file is None,
        f"{asked}, but what teacher.gguf_file holds is quantised already; leave one of the two out",
    )
    if teacher.quantization is None:
        return
    _require(
        init in ("config", "checkpoint"),
        f"{asked}, and student.init is {init}, but quantised weights cannot be trained; set init to checkpoint or "
        "config, or leave quantization out",
    )
    _require(
        not teacher.shard, f"{asked}, and such layers cannot be shared among processes; set teacher.shard to false"
    )


def _check_objective(recipe: Recipe) -> None:
    target, loss = recipe.target, recipe.loss
    require_sound({"op": target.op, "strength": target.strength}, "target.")
    _require(
        not target.reverse_roles or target.op != "none",
        "target.reverse_roles needs an operation to act on; set target.op to expmean, mean, max or swap",
    )
    require_sound(asdict(loss), "loss.")
    _require(
        target.op == "none" or loss.kd > 0 or loss.listed > 0 or recipe.teacher.path is None,  # told elsewhere
        f"target.op is {target.op}, but loss.kd and loss.listed are 0, so that nothing is compared with the teacher's "
        "predictions; give one of them a weight, or set target.op to none (and target.reverse_roles to false)",
    )
    _require(
        loss.kd + loss.ce + loss.hidden > 0, "loss: all of kd, ce and hidden are 0; give at least one of them a weight"
    )
    _require(
        not loss.pairing or target.augment,
        f"loss.pairing is {loss.pairing:g}, but the student reads no counterfactuals that it could be compared on; set "
        "target.augment to true",
    )


def _check_text(section: str, config: CorpusConfig) -> None:
    """Of `corpus` or `held_out`, by its name."""
    _require(
        config.source != "files" or bool(config.files),
        f"{section}.files is empty; give paths or patterns, or set {section}.source to teacher or hub",
    )
    _require(
        config.source != "hub" or bool(config.dataset),
        f"{section}.dataset is missing; give the hub id of a data set, or set {section}.source to teacher or files",
    )
    _require(
        config.source != "teacher" or bool(config.max_documents),
        f"{section}.max_documents is missing: {section}.source is teacher, so say how many documents to sample",
    )
    try:
        re.compile(config.document_start or "")
    except re.error as error:
        raise UserError(
            f"{section}.document_start: {config.document_start!r} is not a regular expression ({error}); "
            "test it with Python's re module"
        ) from None
    _require(
        config.mask == "none" or not (config.passage_chars or config.document_start),
        f"{section}.mask is {config.mask}, but passage_chars and document_start cut texts, and conversations stay "
        "whole; leave them out",
    )
    for name in ("max_documents", "passage_chars", "shuffle_buffer", "sample_tokens", "sample_batch_size"):
        value = getattr(config, name)
        _require(value is None or value > 0, f"{section}.{name} is {value}, but must be at least 1")
    _check_sampling(f"{section}.sample_", config.sample_temperature, config.sample_top_p)


def _check_streamed(recipe: Recipe) -> None:
    """Of text that is packed while training."""
    try:
        max_steps = float(recipe.trainer.get("max_steps", 0))
    except (TypeError, ValueError):
        max_steps = math.inf  # of another kind, which is told later
    _require(
        max_steps > 0,
        "trainer.max_steps is missing: corpus.pack is while_training, and such text has no end; say how many steps",
    )
    _require(
        not recipe.teacher.cache_hidden_states,
        "teacher.cache_hidden_states is true, but text that is packed while training never comes back the same; "
        "set corpus.pack to before_training, or leave the cache out",
    )
    _require(
        recipe.resolver.partition(":")[0] != "teacher",
        f"resolver is {recipe.resolver}, but a model cannot be asked while the student trains; set resolver to "
        "log_linear or spacy, or corpus.pack to before_training",
    )


def _check_without_teacher(recipe: Recipe) -> None:
    _require(
        recipe.loss.kd == recipe.loss.hidden == recipe.loss.listed == 0 and recipe.target.op == "none",
        "teacher.path is null, so loss.kd, loss.hidden and loss.listed must be 0 and target.op none; or name a teacher",
    )
    for section, config in (("corpus", recipe.corpus), ("held_out", recipe.held_out)):
        _require(
            config.source != "teacher",
            f"{section}.source is teacher, but teacher.path is null; set it to files or hub, or name a teacher",
        )
    _require(
        recipe.student.init not in ("layers", "teacher"),
        f"student.init is {recipe.student.init}, but teacher.path is null; use config or checkpoint",
    )
    _require(
        not recipe.teacher.cache_hidden_states,
        "teacher.cache_hidden_states is true, but teacher.path is null; name a teacher, or leave the cache out",
    )


def _check_student(recipe: Recipe) -> None:
    student = recipe.student
    _require(
        student.init != "config" or "model_type" in student.config,
        "student.config has no model_type; give one, e.g. 'gpt2', for student.init: config",
    )
    _require(
        student.init != "checkpoint" or bool(student.path),
        "student.path is missing; name a folder or hub id for student.init: checkpoint",
    )
    for key in _idle_keys(student.init):
        _require(
            getattr(student, key) is None,
            f"student.{key} has no effect, as student.init is {student.init}; leave it out, or set init to "
            f"{'checkpoint' if key == 'path' else 'layers'}",
        )
    _require(
        student.num_layers is None or student.layers is None,
        "student.num_layers and student.layers both say which layers are kept; leave one of them out",
    )
    _require(
        student.tokenizer != "train" or recipe.teacher.path is None,
        "student.tokenizer: train works only without a teacher, whose vocabulary the student must share",
    )
    _check_lora(recipe)
    _check_directions(recipe)


def _idle_keys(init: str) -> list[str]:
    """Keys of `student` that have no effect beside such an `init`."""
    kept = [] if init == "layers" else ["num_layers", "layers"]
    return [*kept, "path"] if init in ("layers", "teacher") else kept


def _check_directions(recipe: Recipe) -> None:
    """Of directions that are taken out of the trained student."""
    asked = f"student.remove_directions is {recipe.student.remove_directions}"
    _require(recipe.student.remove_directions >= 0, f"{asked}, but must be at least 1, or 0 for none")
    if recipe.student.remove_directions == 0:
        return
    _require(
        not recipe.student.lora.r,
        f"{asked}, but with student.lora.r the output head is the base's and stays what it is; leave one of them out",
    )
    _require(
        recipe.corpus.pack == "before_training",
        f"{asked}, but they are learned from the text once the student is trained, and corpus.pack is while_training; "
        "set it to before_training",
    )
    for key, there in (("privacy.epsilon", recipe.is_private), ("federation.clients", recipe.federation.clients)):
        _require(
            not there,
            f"{asked}, and {key} is set, but the directions are learned from all of the text as it is; leave one of "
            "the two out",
        )


def _check_lora(recipe: Recipe) -> None:
    student, lora, teacher = recipe.student, recipe.student.lora, recipe.teacher
    _require(lora.r >= 0, f"student.lora.r is {lora.r}, but must be at least 1, or 0 for no adapter")
    if lora.r == 0:
        _require(
            lora == LoraConfig(), "student.lora.r is 0, so that there is no adapter for the other keys of student.lora"
        )
        _require(
            student.init != "teacher",
            "student.init is teacher, whose weights the student cannot change; set student.lora.r, or init to layers",
        )
        return
    _require(
        student.init in ("teacher", "checkpoint"),
        f"student.lora.r is {lora.r}, but a student of student.init: {student.init} lies in no folder that its adapter "
        "could be loaded with; set init to teacher or checkpoint",
    )
    _require(
        student.init != "teacher" or not teacher.shard,
        "teacher.shard is true, but with student.init: teacher the student shares its teacher's weights; leave it out",
    )
    _require(lora.alpha is None or lora.alpha > 0, f"student.lora.alpha is {lora.alpha}, but must be above 0, or null")
    _require(0 <= lora.dropout < 1, f"student.lora.dropout is {lora.dropout}, but must be at least 0 and below 1")
    _require(lora.targets != [], "student.lora.targets is empty; name layers, or leave it out for all linear ones")
    base = teacher if student.init == "teacher" else student
    _require(
        lora.merge or not (base.allow_pickle or base.trust_remote_code),
        "student.lora.merge is false, but whoever loads the adapter would have to trust its base's pickle or code "
        "anew; set it to true",
    )
    gguf_file = _gguf_base(recipe)
    _require(
        lora.merge or gguf_file is None,
        f"student.lora.merge is false, but the base lies in the GGUF file {gguf_file}, and an adapter names a folder "
        "or hub id alone, so that it could not be loaded; set it to true",
    )


def _gguf_base(recipe: Recipe) -> str | None:
    """The GGUF file that the base of a student's adapter is read from, if any."""
    if recipe.student.init == "teacher":
        return recipe.teacher.gguf_file
    path = recipe.student.path
    return path if path is not None and Path(path).suffix == ".gguf" and Path(path).is_file() else None
