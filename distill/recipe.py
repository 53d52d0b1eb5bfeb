"""The typed recipe: YAML files and dotted overrides in, one frozen object out.

This is the only reader of YAML. A recipe file may name another one under `base:` (a path relative to itself); its own
keys are laid over the base's, so that recipes share settings instead of copying them.
"""

import argparse
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import yaml

from distill.console import QUIET, QUIET_HELP
from distill.errors import HUB_TOKEN, UserError, suggestion

_MOST_VALUES, _MOST_CHARACTERS = 100_000, 1_000_000  # in a recipe file


@dataclass(frozen=True)
class TeacherConfig:
    """The model that is distilled.

    Args:
        path: `demo` for the bundled demo teacher, a folder, or a hub id. `null`: no teacher, plain language modelling.
        revision: Branch, tag or commit of a hub id.
        dtype: Number format of the teacher's weights while it predicts.
        trust_remote_code: Run code that comes with the model or its tokenizer. Only for sources you trust.
        allow_pickle: Load weights from a pickle (.bin) where there are no safetensors. Only for sources you trust.
        attention: Transformers' name of the attention implementation: `sdpa`, `eager`, `flash_attention_2` ...;
            `null`: its own choice, SDPA where the model has it.
        cache_hidden_states: Keep the teacher's last hidden states on disk, so that epochs after the first run no
            teacher. A token takes hidden size x 2 or 4 bytes, and so does its counterfactual.
        cache_dtype: Their number format on disk; `null`: the one in which the loss reads them (16 bits where the
            trainer has bf16 or fp16, else the teacher's), which changes nothing.
        shard: Share the teacher's layers among the processes (FSDP2) instead of holding all of them in each.
    """

    path: str | None = "demo"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    trust_remote_code: bool = False
    allow_pickle: bool = False
    attention: str | None = None
    cache_hidden_states: bool = False
    cache_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    shard: bool = False


@dataclass(frozen=True)
class StudentConfig:
    """The model that is trained.

    Args:
        init: `layers`: some of the teacher's layers. `config`: random weights of the architecture in `config`.
            `checkpoint`: the weights in `path`.
        num_layers: How many of the teacher's layers `init: layers` keeps; `null`: half of them.
        layers: Which of the teacher's layers, counted from 0; `null`: spread evenly from the first to the last.
        path: Folder or hub id for `init: checkpoint`.
        config: Keys of a transformers configuration for `init: config`, `model_type` among them.
        tokenizer: Folder or hub id of the tokenizer; `null`: the teacher's. `train`: train a byte-level BPE on the
            corpus (only without a teacher).
        vocab_size: Entries of the vocabulary for `tokenizer: train`.
        save_dtype: Number format of the finished student's file; training is in float32.
        trust_remote_code: Run code that comes with the model in `path` or the tokenizer. Only for sources you trust.
        allow_pickle: Load the weights in `path` from a pickle (.bin) where there are no safetensors. Only for sources
            you trust.
        attention: The student's attention implementation; `null`: the teacher's for `init: layers`, else transformers'
            own choice.
    """

    init: Literal["layers", "config", "checkpoint"] = "layers"
    num_layers: int | None = None
    layers: list[int] | None = None
    path: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    vocab_size: int = 8192
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    trust_remote_code: bool = False
    allow_pickle: bool = False
    attention: str | None = None


@dataclass(frozen=True)
class CorpusConfig:
    """A source of documents.

    Args:
        source: `teacher`: text sampled from the teacher. `files`: local files. `hub`: a data set of the hub.
        files: Paths or glob patterns of .txt (one document a file), .jsonl (one document a row), .parquet; also
            compressed (.gz, .xz). Relative to the folder in which the command runs.
        dataset: Hub id for `source: hub`.
        name: Configuration of the hub data set.
        revision: Branch, tag or commit of the hub data set.
        split: Split of the hub data set.
        text_column: Column or JSON key that holds the text.
        streaming: Read the hub data set as a stream instead of downloading it first.
        max_documents: Take at most this many documents; `null`: all. For `source: teacher`: how many to sample.
        passage_chars: Split documents at paragraph and sentence ends into passages of at most this many characters,
            each a document of its own; `null`: leave documents whole, up to 10,000,000 characters.
        document_start: Regular expression of the lines that begin a document: rows (or the lines of .txt files) are
            joined into documents that start there. For sources with a row for each line, such as WikiText.
        shuffle: Shuffle the documents (with the recipe's seed) before `max_documents` is applied; a hub data set that
            is streamed passes a buffer of `shuffle_buffer` documents. With `pack: while_training` it shuffles the order
            of the source's files instead, and the rows of a hub data set that was downloaded.
        shuffle_buffer: Documents that are read, shuffled and packed together with `pack: while_training`.
        pack: `before_training`: all text is packed into blocks on disk before the first step. `while_training`: blocks
            are packed as they are needed, for corpora too large to wait for; needs `trainer.max_steps`, and takes
            `trainer.dataloader_num_workers` processes where that is not 0. Only for `corpus`.
        sample_tokens: Longest document sampled from the teacher, in tokens.
        sample_temperature: Softmax temperature of sampling; 1 is the teacher's own distribution.
        sample_top_p: Nucleus of sampling, as a probability; 1 keeps the whole distribution.
        sample_batch_size: Documents sampled side by side.
    """

    source: Literal["teacher", "files", "hub"] = "teacher"
    files: list[str] = field(default_factory=list)
    dataset: str | None = None
    name: str | None = None
    revision: str | None = None
    split: str = "train"
    text_column: str = "text"
    streaming: bool = False
    max_documents: int | None = None
    passage_chars: int | None = None
    document_start: str | None = None
    shuffle: bool = False
    shuffle_buffer: int = 10_000
    pack: Literal["before_training", "while_training"] = "before_training"
    sample_tokens: int = 127
    sample_temperature: float = 1.0
    sample_top_p: float = 1.0
    sample_batch_size: int = 256


@dataclass(frozen=True)
class TargetConfig:
    """The mitigation: what the student learns to predict where a text and its counterfactual ask the same question.

    Args:
        op: `none`, `max`, `mean`, `expmean` or `swap` of the teacher's log-probabilities on both texts.
        strength: From 0 (the plain teacher) to 1 (the operation's result).
        reverse_roles: Map the counterfactual prediction back through the word list before the operation.
        augment: Train on the counterfactual texts too.
    """

    op: str = "none"
    strength: float = 1.0
    reverse_roles: bool = False
    augment: bool = False


@dataclass(frozen=True)
class LossConfig:
    """Weights and form of the loss.

    Args:
        kd: Weight of the divergence between target and student.
        ce: Weight of the cross-entropy with the text's own next token.
        hidden: Weight of 1 - cosine of the student's and the teacher's last hidden states.
        temperature: Softmax temperature of target and student in the divergence.
        divergence: `forward_kl`, `reverse_kl` or `jsd` (generalised Jensen-Shannon).
        jsd_beta: The generalised Jensen-Shannon weight of the target, between 0 and 1.
        chunk_tokens: Tokens whose logits are held in memory at one time; `null`: what suits the device.
    """

    kd: float = 1.0
    ce: float = 0.0
    hidden: float = 0.0
    temperature: float = 1.0
    divergence: str = "forward_kl"
    jsd_beta: float = 0.5
    chunk_tokens: int | None = None


@dataclass(frozen=True)
class ScoreConfig:
    """What is measured after training.

    Args:
        metrics: Names of metrics in distill/metrics.
        prompts: `occupations` for the bundled prompts, a file, or BOLD as a folder or hub id.
        max_prompts: Use at most this many prompts, spread over all groups; `null`: all.
        samples: Continuations sampled for each prompt.
        max_new_tokens: Length of a continuation, in tokens.
        temperature: Softmax temperature of sampling.
        top_p: Nucleus of sampling, as a probability.
        top_k: Sample among this many most likely tokens; 0: all.
        batch_size: Continuations sampled side by side; it changes the speed, not the scores.
        bootstrap: Resamples for the 95% intervals.
        stride: Tokens by which the window moves over documents longer than the context; `null`: half of it.
        data: Folder of benchmark data for the metrics that need it (CrowS-Pairs, StereoSet ...), one folder each.
        regard_model: Classifier of regard, as folder or hub id; `null`: regard is not measured.
        toxicity_model: Classifier of toxicity, as folder or hub id; `null`: toxicity is not measured.
        word_vectors: File of word vectors (word2vec text or binary, GloVe) for Gender-Max and Gender-Wavg.
    """

    metrics: list[str] = field(
        default_factory=lambda: [
            "corpus_disparity",
            "next_word_disparity",
            "generation_disparity",
            "neutral_rate",
            "perplexity",
            "bits_per_byte",
            "equivariance_gap",
        ]
    )
    prompts: str = "occupations"
    max_prompts: int | None = None
    samples: int = 4
    max_new_tokens: int = 24
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    batch_size: int = 64
    bootstrap: int = 1000
    stride: int | None = None
    data: str | None = None
    regard_model: str | None = None
    toxicity_model: str | None = None
    word_vectors: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run.

    Args:
        output_dir: Folder of this run; everything is written there.
        seed: Seed of sampling, initial weights, data order and intervals.
        wordlist: Name of a bundled word list or path of a TSV; several joined by `+`.
        resolver: What tells the roles of ambiguous pronouns (her: his or him) in the training text: `log_linear`,
            `teacher` or `teacher:PATH` (a language model scores both readings), `spacy` or `spacy:PIPELINE`.
        baseline: Also train a plainly distilled student (same data, same steps, no mitigation) to compare with.
        block_length: Tokens in a training block.
        cache_dir: Folder of sampled and packed text; `null`: `cache/` in the output folder.
        teacher: The model that is distilled.
        student: The model that is trained.
        corpus: Training text.
        held_out: Text for perplexity, corpus disparity and equivariance gap, never trained on.
        target: The mitigation.
        loss: The loss.
        on_nonfinite: When a loss, a gradient or a logit of the teacher is not finite: `stop` and say in which text, or
            `skip` the step and count it.
        trainer: Settings of transformers' TrainingArguments, by their own names. With `push_to_hub`, the finished
            student is pushed with its model card once it has been scored; checkpoints and baseline are not.
        scores: What is measured after training.
    """

    output_dir: str = "outputs/run"
    seed: int = 0
    wordlist: str = "english_gender"
    resolver: str = "log_linear"
    baseline: bool = True
    block_length: int = 128
    cache_dir: str | None = None
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    held_out: CorpusConfig = field(default_factory=CorpusConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    on_nonfinite: Literal["stop", "skip"] = "stop"
    trainer: dict[str, Any] = field(default_factory=dict)
    scores: ScoreConfig = field(default_factory=ScoreConfig)

    @property
    def needs_counterfactuals(self) -> bool:
        """Whether training looks at a second view of the text."""
        return self.target.augment or self.target.op != "none"

    def plain(self) -> "Recipe":
        """The same run without any mitigation: the fair comparison."""
        return replace(self, target=TargetConfig())

    def variants(self) -> dict[str, "Recipe"]:
        """Name -> recipe of the students of this run, the mitigated one last."""
        baseline = {"baseline": self.plain()} if self.baseline and self.needs_counterfactuals else {}
        return {**baseline, "student": self}

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries, ready for YAML or JSON."""
        return asdict(self)


def _section_type(annotation: Any) -> type | None:
    """The dataclass behind a field's annotation, or None for a leaf."""
    return annotation if isinstance(annotation, type) and is_dataclass(annotation) else None


def reject_unknown_keys(values: Mapping[str, Any], section: type, where: str, prefix: str = "") -> None:
    """Raise a UserError that names the first key of `values` that is no field of the dataclass `section`."""
    names = {f.name: f.type for f in fields(section)}
    for key, value in values.items():
        if key not in names:
            hint = suggestion(str(key), list(names))
            raise UserError(f"{where}: unknown key '{prefix}{key}'; {hint}")
        inner = _section_type(names[key])
        if inner is not None:
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: key '{prefix}{key}' must hold keys of its own, but is {value!r}")
            reject_unknown_keys(value, inner, where, f"{prefix}{key}.")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys of `over` laid over those of `base`."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        UserError: the file is missing, or is not a YAML mapping in UTF-8.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(_MOST_CHARACTERS + 1)
    except FileNotFoundError:
        siblings = sorted(p.name for p in path.parent.glob("*.yaml"))
        hint = suggestion(path.name, siblings) if siblings else "see recipes/ for the ones that come with distill."
        raise UserError(f"{path}: no such recipe file; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    if len(text) > _MOST_CHARACTERS:
        raise UserError(f"{path}: longer than {_MOST_CHARACTERS:,} characters; that is no recipe")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        at = f", line {line + 1}" if line is not None else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise UserError(f"{path}{at}: not valid YAML: {problem}; check indentation and quotes") from None
    except RecursionError:
        raise UserError(f"{path}: not a recipe: its values are nested too deep") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe holds 'key: value' lines, but this is a {type(values).__name__}")
    _check_plain(values, path)
    return values


def read_recipe_file(path: str | Path, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a recipe file laid over those of its `base:`, as nested dictionaries.

    Raises:
        UserError: see `read_yaml`; or the file holds an unknown key, or its bases form a circle.
    """
    path = Path(path)
    values = read_yaml(path)
    if path.resolve() in _seen:
        raise UserError(f"{path}: 'base' leads back to a file that is already being read; remove one of the two")
    base = values.pop("base", None)
    reject_unknown_keys(values, Recipe, str(path))
    if base is None:
        return values
    return merge(read_recipe_file(path.parent / str(base), (*_seen, path.resolve())), values)


def _check_plain(values: dict[Any, Any], path: Path) -> None:
    """Raises UserError unless these are at most `_MOST_VALUES` values that JSON can hold too.

    YAML has dates, sets and binary data besides, and a few lines whose aliases point at one another can stand for
    billions of values, or for themselves.
    """
    queue: list[Any] = [values]
    for number, value in enumerate(queue):  # grows
        if number > _MOST_VALUES:
            raise UserError(f"{path}: stands for more than {_MOST_VALUES:,} values; write it without aliases (*name)")
        if isinstance(value, dict):
            queue += value.keys()
            queue += value.values()
        elif isinstance(value, list):
            queue += value
        elif not isinstance(value, str | int | float | bool | None):
            raise UserError(
                f"{path}: the value {value!r} is a {type(value).__name__}; put it in quotes to make it text"
            )


def _dotted_names(section: type, prefix: str = "") -> list[str]:
    names = []
    for f in fields(section):
        inner = _section_type(f.type)
        names += _dotted_names(inner, f"{prefix}{f.name}.") if inner else [prefix + f.name]
    return names


def build_parser() -> jsonargparse.ArgumentParser:
    """The command line of a run: `--config FILE` and one option for every key of a recipe."""
    parser = jsonargparse.ArgumentParser(
        prog="distill train",
        exit_on_error=False,
        description="Distil a causal language model into a smaller student while mitigating gender bias.",
    )
    parser.add_argument("--config", action="config", help="Recipe file (YAML); later options override its keys.")
    # Left out of the namespace unless given, so that --print_config shows a recipe's keys alone.
    parser.add_argument(QUIET, action="store_true", default=argparse.SUPPRESS, help=QUIET_HELP)
    parser.add_class_arguments(Recipe)
    return parser


def parse_recipe(argv: Sequence[str]) -> Recipe:
    """Turn command-line arguments into a checked recipe.

    Args:
        argv: Arguments without the program's name, e.g. `["--config", "recipes/debug.yaml", "--seed", "1"]`.

    Raises:
        UserError: an unknown key, a value of the wrong kind, or settings that contradict each other.
        SystemExit: after `--help` or `--print_config`.
    """
    arguments, source = [], "the command line"
    queue = list(argv)
    while queue:
        item = queue.pop(0)
        option, _, inline = item.partition("=")
        if option != "--config":
            arguments.append(item)
            continue
        if not inline and not queue:
            raise UserError("option --config needs the path of a recipe file, e.g. recipes/quickstart.yaml")
        source = inline or queue.pop(0)
        # The parser gets the merged content, because `base:` is our own key.
        arguments += ["--config", json.dumps(read_recipe_file(source))]
    # Before anything is shown, by --print_config or in a message.
    if any(HUB_TOKEN.search(argument) or "hub_token" in argument for argument in arguments):
        raise UserError(
            f"{source}: holds a token of the model hub, which would end up in the run's files; leave it out, and log "
            "in with `hf auth login` or the environment variable HF_TOKEN"
        )
    return _parsed(arguments, source)


def recipe_of(values: Mapping[str, Any], source: str) -> Recipe:
    """A checked recipe from nested keys.

    Args:
        values: As `read_recipe_file` returns them.
        source: Where they come from, for messages.

    Raises:
        UserError: see `parse_recipe`.
    """
    reject_unknown_keys(values, Recipe, source)
    return _parsed(["--config", json.dumps(values)], source)


def _parsed(arguments: Sequence[str], source: str) -> Recipe:
    parser = build_parser()
    try:
        namespace = parser.parse_args(arguments)
    except jsonargparse.ArgumentError as error:
        raise UserError(_parser_message(error, source)) from None
    except RecursionError:
        raise UserError(f"{source}: its values are nested too deep") from None
    values = namespace.as_dict()
    values.pop("config", None)
    recipe = _from_dict(Recipe, values)
    check_recipe(recipe)
    return recipe


def _from_dict(section: type, values: Mapping[str, Any]) -> Any:
    known = {f.name: _section_type(f.type) for f in fields(section)}
    given = {key: value for key, value in values.items() if key in known}
    return section(**{k: _from_dict(inner, v) if (inner := known[k]) else v for k, v in given.items()})


def _parser_message(error: Exception, source: str) -> str:
    message = " ".join(str(error).split())
    if "unrecognized arguments" in message:
        word = message.split("unrecognized arguments:", 1)[1].split()[0]
        name = word.partition("=")[0].lstrip("-")
        # A misspelt section hides the right key: compare the last part too.
        known = _dotted_names(Recipe)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6) or [
            k for k in known if k.split(".")[-1] == name.split(".")[-1]
        ]
        hint = f"did you mean --{near[0]}?" if near else "see --help for all options."
        return f"unknown option '{word}'; {hint}"
    if message.startswith("Parser key"):
        key, _, rest = message.removeprefix("Parser key ").partition(":")
        return f"{source}: key {key.strip()}: {rest.strip().rstrip('.')}; see --help for what it takes"
    return f"{source}: {message}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def check_recipe(recipe: Recipe) -> None:
    """Reject settings that cannot work before anything is loaded or written.

    Raises:
        UserError: names the key, its value and what is allowed.
    """
    from distill.kd_loss import DIVERGENCES
    from distill.logit_ops import OPERATIONS
    from distill.metrics import METRICS

    target, loss, corpus = recipe.target, recipe.loss, recipe.corpus
    _require(
        target.op in OPERATIONS,
        f"target.op: unknown operation '{target.op}'; {suggestion(target.op, list(OPERATIONS))}",
    )
    _require(
        0.0 <= target.strength <= 1.0,
        f"target.strength is {target.strength}, but must lie in [0, 1]: 0 is the plain teacher, 1 the full operation",
    )
    _require(
        not target.reverse_roles or target.op != "none",
        "target.reverse_roles needs an operation to act on; set target.op to expmean, mean, max or swap",
    )
    _require(
        loss.divergence in DIVERGENCES,
        f"loss.divergence: unknown divergence '{loss.divergence}'; {suggestion(loss.divergence, list(DIVERGENCES))}",
    )
    _require(loss.temperature > 0, f"loss.temperature is {loss.temperature}, but must be greater than 0")
    _require(0 < loss.jsd_beta < 1, f"loss.jsd_beta is {loss.jsd_beta}, but must lie between 0 and 1")
    _require(
        loss.chunk_tokens is None or loss.chunk_tokens > 0,
        f"loss.chunk_tokens is {loss.chunk_tokens}, but must be at least 1, or null for what suits the device",
    )
    for name in ("kd", "ce", "hidden"):
        _require(getattr(loss, name) >= 0, f"loss.{name} is {getattr(loss, name)}, but a weight must not be negative")
    _require(
        loss.kd + loss.ce + loss.hidden > 0, "loss: all of kd, ce and hidden are 0; give at least one of them a weight"
    )
    _require(recipe.block_length >= 8, f"block_length is {recipe.block_length}, but must be at least 8 tokens")
    for section in ("corpus", "held_out"):
        config: CorpusConfig = getattr(recipe, section)
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
        for name in ("max_documents", "passage_chars", "shuffle_buffer"):
            value = getattr(config, name)
            _require(value is None or value > 0, f"{section}.{name} is {value}, but must be at least 1")
    _require(
        recipe.held_out.pack == "before_training",
        "held_out.pack is while_training, but held-out text is never trained on; leave the key out",
    )
    if corpus.pack == "while_training":
        max_steps = recipe.trainer.get("max_steps", 0)
        _require(
            isinstance(max_steps, int) and max_steps > 0,
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
    if recipe.teacher.path is None:
        _require(
            loss.kd == 0 and loss.hidden == 0 and target.op == "none",
            "teacher.path is null, so loss.kd and loss.hidden must be 0 and target.op none; or name a teacher",
        )
        _require(corpus.source != "teacher", "corpus.source is teacher, but teacher.path is null; name a teacher")
        _require(
            recipe.student.init != "layers",
            "student.init is layers, but teacher.path is null; use config or checkpoint",
        )
        _require(
            not recipe.teacher.cache_hidden_states,
            "teacher.cache_hidden_states is true, but teacher.path is null; name a teacher, or leave the cache out",
        )
    _require(
        not (recipe.teacher.cache_hidden_states and recipe.teacher.shard),
        "teacher.cache_hidden_states and teacher.shard are both true, but all processes must run a sharded teacher "
        "equally often, and a cached block spares one of them its turn; leave one of the two out",
    )
    _require(
        recipe.student.init != "config" or "model_type" in recipe.student.config,
        "student.config has no model_type; give one, e.g. 'gpt2', for student.init: config",
    )
    _require(
        recipe.student.init != "checkpoint" or bool(recipe.student.path),
        "student.path is missing; name a folder or hub id for student.init: checkpoint",
    )
    _require(
        recipe.student.tokenizer != "train" or recipe.teacher.path is None,
        "student.tokenizer: train works only without a teacher, whose vocabulary the student must share",
    )
    for metric in recipe.scores.metrics:
        _require(metric in METRICS, f"scores.metrics: unknown metric '{metric}'; {suggestion(metric, list(METRICS))}")
    _check_trainer_arguments(recipe.trainer)


# Set by the pipeline itself; a second value would contradict it.
_OWN_TRAINER_KEYS = {
    "output_dir": "output_dir",
    "seed": "seed",
    "data_seed": "seed",
    "remove_unused_columns": None,
    "label_names": None,
}


def _check_trainer_arguments(arguments: Mapping[str, Any]) -> None:
    from transformers import TrainingArguments

    known = [f.name for f in fields(TrainingArguments)]
    for key in arguments:
        if key in _OWN_TRAINER_KEYS:
            ours = _OWN_TRAINER_KEYS[key]
            hint = f"use the recipe's key '{ours}'" if ours else "leave it out"
            raise UserError(f"trainer.{key} is set by distill itself; {hint}")
        _require(key in known, f"trainer: unknown key '{key}'; {suggestion(key, known)}")
    strategy = arguments.get("hub_strategy")
    _require(
        "checkpoint" not in str(strategy),
        f"trainer.hub_strategy is {strategy}, but checkpoints are not pushed, only the finished student with its card; "
        "leave it out",
    )


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Save the resolved recipe as YAML that `--config` reads again."""
    path.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")


def read_resolved(path: Path) -> dict[str, Any]:
    """The dictionary that `write_recipe` saved. Raises UserError where it was damaged since."""
    return read_yaml(path)
