"""The `distill` command: one function a verb, each of them thin."""

import argparse
import contextlib
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from distill import __version__
from distill.base.console import EXIT_USER_ERROR, QUIET, QUIET_HELP, run_entry
from distill.base.errors import UserError

# Verbs import what they need when they run: torch and transformers take seconds to import, and neither a help text nor
# a swapped line needs them.

_SEVERAL_GPUS = "accelerate launch --multi_gpu --num_processes N distill/train.py"
_JSON = "--json"


class _Parser(argparse.ArgumentParser):
    """Leaves the line breaks of its texts alone, and reports a mistake as a UserError, in one sentence."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(QUIET, action="store_true", help=QUIET_HELP)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(_JSON, action="store_true", help="print the result as JSON")


def _add_wordlist(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wordlist",
        default="english_gender",
        metavar="NAME|PATH",
        help="bundled list or TSV, several joined by + (default: english_gender)",
    )


def _add_trust_remote_code(parser: Any) -> None:
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the models")


def _only_results() -> contextlib.AbstractContextManager[Any]:
    """Around imports and work: what libraries print goes to standard error, where it garbles no result."""
    return contextlib.redirect_stdout(sys.stderr)


def _take_one_gpu(instead: str) -> None:
    """Before torch is loaded, leave this process, and those that it starts, one GPU of the machine: the first, or that
    which the user names. One process that sees several would split every batch over them in threads (DataParallel).

    Raises:
        UserError: several are named; `instead` says what to do then.
    """
    gpus = os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    if "," in os.environ.get("ROCR_VISIBLE_DEVICES", ""):  # torch counts AMD's by it, unless there is HIP's own
        os.environ.setdefault("HIP_VISIBLE_DEVICES", gpus)
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        if "," in os.environ.get(name, ""):
            raise UserError(f"{name} is {os.environ[name]}, but {instead}")


def _count(text: str) -> int:
    """An option's value that counts something."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few; give 1 or more")
    return number


# ------------------------------------------------------------------------------------------------------------ train

_TRAIN = f"""Run a recipe from its text to its report, in one process and on one GPU at most. A run that was stopped
continues where it stopped when the same command is given again. The last line printed is the path of the page to open
in a browser. For several GPUs or machines, give the same options to accelerate:
  {_SEVERAL_GPUS}

examples:
  distill train --config quickstart
  distill train --config quickstart --output_dir outputs/mine --wordlist my-list.tsv --target.strength 0.5
"""


def _train_parser() -> argparse.ArgumentParser:
    from distill.recipe_check import build_parser

    parser = build_parser()
    parser.add_argument(_JSON, action="store_true", help="print scores.json instead of its table")
    return parser


def train(arguments: Sequence[str]) -> None:
    """`distill train`: what `accelerate launch distill/train.py` does, in this process.

    Raises:
        UserError: a mistake in the recipe, or more than one GPU is named for the one process.
    """
    arguments, as_json = [word for word in arguments if word != _JSON], _JSON in arguments
    if {"-h", "--help"} & set(arguments):
        print(_TRAIN)
        _train_parser().print_help()
        return
    if "RANK" not in os.environ:
        _take_one_gpu(f"distill train uses one GPU; for all: {_SEVERAL_GPUS}")

    from distill.recipe_check import parse_recipe

    recipe = parse_recipe(arguments)
    with _only_results() if as_json else contextlib.nullcontext():
        from distill.pipeline import run

        scores = run(recipe)
    if as_json and scores is not None:
        print((Path(recipe.output_dir) / "scores.json").read_text(encoding="utf-8"), end="")


# ---------------------------------------------------------------------------------------------------------- recipes

_RECIPES = """List the recipes and studies that come with distill, by the names that `distill train --config NAME` and
`distill study NAME` take in any folder. A recipe of your own can name one of them under `base:` and replace some of its
keys."""

_RECIPES_EXAMPLES = """examples:
  distill recipes
  distill recipes --json
"""


def _recipes_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="distill recipes", description=_RECIPES, epilog=_RECIPES_EXAMPLES)
    _add_json(parser)
    _add_quiet(parser)
    return parser


def recipes(arguments: Sequence[str]) -> None:
    """`distill recipes`: what comes with the package, a line each."""
    options = _recipes_parser().parse_args(arguments)

    from distill.base.bundled import recipe_names, study_names, summary

    kinds = {"recipes": recipe_names(), "studies": study_names()}
    if options.json:
        found = {kind: {name: summary(path) for name, path in names.items()} for kind, names in kinds.items()}
        print(json.dumps(found, indent=2))
        return
    indent = 4 + max(len(name) for names in kinds.values() for name in names)
    columns = max(shutil.get_terminal_size().columns, indent + 30) if sys.stdout.isatty() else 10_000
    for kind, command in (("recipes", "distill train --config NAME"), ("studies", "distill study NAME")):
        print(f"{kind} ({command}):")
        for name, path in kinds[kind].items():
            first = f"  {name}".ljust(indent)
            print(textwrap.fill(summary(path), columns, initial_indent=first, subsequent_indent=" " * indent))


# ------------------------------------------------------------------------------------------------------------- swap

_SWAP = """Write the counterfactual of every line of FILE to standard output: each listed word becomes its counterpart
in another group, and every other byte stays as it is, except that a byte-order mark is left out. A line is a text of
its own; one of more than a million characters is swapped in parts, cut behind a sentence or a word. In files with rows
(.jsonl, .ndjson, .json, .csv, .tsv, .parquet, a folder of datasets' save_to_disk) one column is swapped, and all other
values stay, though their quotes and line ends may not (those of a .tsv without quoting do: one whose lines all have the
header's tabs, with quotation marks that no csv writer writes); a list of messages is swapped as one conversation.
Compressed files (.gz, .xz, .bz2) are written uncompressed.

With --dataset, the rows of a data set and their counterfactuals become a new data set in the folder --to: a row and its
counterfactual have the same pair_id, and the column spans holds the edits. With --num_proc, a
call that was stopped and is given again swaps those pieces alone that were not done."""

_SWAP_EXAMPLES = """examples:
  echo "She told her father." | distill swap -
  distill swap letters.txt --wordlist english_gender+english_names --show
  distill swap corpus.txt --wordlist my-list.tsv --json --num_proc 8 > swapped.jsonl
  distill swap reviews.csv --text_column review > swapped.csv
  distill swap --dataset path/to/saved --column text --to path/to/pairs --num_proc 8
"""


def _swap_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="distill swap", description=_SWAP, epilog=_SWAP_EXAMPLES)
    parser.add_argument("file", metavar="FILE", nargs="?", help="UTF-8 text, or rows; - for standard input")
    parser.add_argument(
        "--text_column", metavar="NAME", help="in a file with rows, the column of the text (default: text)"
    )
    parser.add_argument("--split", metavar="NAME", help="which split to swap, where a folder holds several")
    parser.add_argument(
        "--dataset", metavar="ID|FOLDER|FILE", help="a hub data set, a folder of save_to_disk, or a file with rows"
    )
    parser.add_argument("--column", metavar="NAME", help="its column that holds the text (default: text)")
    parser.add_argument("--to", metavar="FOLDER", help="where the data set and its counterfactuals go")
    _add_wordlist(parser)
    parser.add_argument(
        "--shift",
        type=_count,
        default=1,
        metavar="N",
        help="by how many groups, for lists of more than two (default: 1)",
    )
    parser.add_argument(
        "--resolver",
        default="log_linear",
        metavar="NAME",
        help="what tells her (his) from her (him): log_linear, spacy[:NAME], teacher[:MODEL] (default: %(default)s)",
    )
    _add_trust_remote_code(parser)
    parser.add_argument(
        "--skip",
        choices=("document", "sentence", "nothing"),
        default="document",
        help="what is left alone around a word that the list skips, such as pregnant; a document is a line here "
        "(default: %(default)s)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--show", action="store_true", help="show edited lines side by side, with the edits marked")
    form.add_argument(
        "--json", action="store_true", help="write a JSON object for each line: text, counterfactual, spans, skipped"
    )
    parser.add_argument(
        "--num_proc",
        type=_count,
        default=1,
        metavar="N",
        help="how many processes share the work (default: %(default)s)",
    )
    _add_quiet(parser)
    return parser


def swap(arguments: Sequence[str]) -> None:
    """`distill swap`: one counterfactual line for every line.

    Raises:
        UserError: the file or word list cannot be read, or the list has no such shift.
    """
    options = _swap_parser().parse_args(arguments)
    if (options.file is None) == (options.dataset is None):
        raise UserError("give either FILE or --dataset; see distill swap --help")
    if (options.dataset is None) != (options.to is None):
        raise UserError("--dataset and --to go together: what is swapped, and where the result goes")
    if options.dataset is not None and options.text_column is not None:
        raise UserError("option --text_column goes with FILE; name the column of --dataset by --column")
    if options.dataset is not None and options.split is not None:
        raise UserError("option --split goes with FILE; of --dataset every split is swapped, leave it out")
    for name, asked in (("--show", options.show), ("--json", options.json)):
        if options.dataset is not None and asked:
            raise UserError(f"option {name} goes with FILE, whose counterfactuals are printed; leave it out")
    if options.dataset is None and options.column is not None:
        raise UserError("option --column goes with --dataset; name the column of FILE by --text_column")

    from distill.text.counterfactual import Swapper
    from distill.text.swap_lines import swap_file
    from distill.text.swap_rows import swap_saved
    from distill.text.wordlist import load_wordlist

    folder = _new_folder(options.to, "--to") if options.to is not None else None
    wordlist = load_wordlist(options.wordlist)
    if options.shift >= wordlist.num_groups:
        raise UserError(
            f"option --shift is {options.shift}, but the list {wordlist.name} has {wordlist.num_groups} groups; "
            f"give 1 to {wordlist.num_groups - 1}"
        )
    if options.num_proc > 1 and options.resolver.startswith("teacher"):
        raise UserError("option --num_proc: the resolver 'teacher' runs in one process; leave one of the two out")
    swapper = Swapper(wordlist, _resolver(options.resolver, options.trust_remote_code), options.skip)
    form = "table" if options.show else "json" if options.json else "text"
    with contextlib.ExitStack() as lent:
        if swapper.model is not None:
            from distill.models.architecture import lent_to_gpu

            lent.enter_context(lent_to_gpu(swapper.model))
        if folder is not None:
            column = options.column or "text"
            print(swap_saved(options.dataset, column, swapper, options.shift, options.num_proc, folder))
            return
        swap_file(options.file, swapper, options.shift, options.num_proc, form, options.text_column, options.split)


def _new_folder(given: str, option: str) -> Path:
    """Raises UserError where no folder can be put: one that appears whole takes its place by its name."""
    folder = Path(given)
    if folder.name in ("", ".."):
        raise UserError(
            f"option {option} is {given}, but the folder is made anew; give it a name, as {folder / 'made'}"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"option {option} is {given}, which is a file; name a folder")
    return folder


def _resolver(spec: str, trust_remote_code: bool) -> Any:
    """The resolver of that name; the models that some need are loaded only for them."""
    from distill.text.roles import PronounModel

    if spec == "log_linear":
        return PronounModel()
    from distill.models.resolvers import load_resolver

    return load_resolver("teacher:demo" if spec == "teacher" else spec, trust_remote_code=trust_remote_code)


# --------------------------------------------------------------------------------------------------------- wordlist

_CHECK = """Check a word list. Every mistake is told with its line, the reason and a hint, then what looks wrong, and
how words with several counterparts are resolved. With --text it also says what the list covers of a text, with
--tokenizer which words are one token. The exit code is 2 where the list has a mistake."""

_CHECK_EXAMPLES = """examples:
  distill wordlist check my-list.tsv
  distill wordlist check english_gender+my-list.tsv --text corpus/*.jsonl --tokenizer openai-community/gpt2
"""

_IMPORT = """Make a word list from published ones, which may be a file for each group, aligned by line, one file with
pairs in columns, or JSON pairs. Whatever is wrong in the sources is reported, with what was done about it."""

_IMPORT_EXAMPLES = """examples:
  distill wordlist import male_words.txt female_words.txt --out my-list.tsv
  distill wordlist import pairs.json --groups female,male --out my-list.tsv
"""

_WORDLIST_EXAMPLES = """examples:
  distill wordlist check english_gender
  distill wordlist import --help
"""


def _wordlist_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="distill wordlist", epilog=_WORDLIST_EXAMPLES)
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)

    check = verbs.add_parser("check", help="mistakes, coverage, tokens", description=_CHECK, epilog=_CHECK_EXAMPLES)
    check.add_argument("wordlist", metavar="NAME|PATH", help="bundled list or TSV, several joined by +")
    check.add_argument(
        "--text", nargs="+", default=[], metavar="FILE", help=".txt, .jsonl, .csv, .parquet ...; also compressed"
    )
    check.add_argument("--text_column", default="text", metavar="NAME", help="column or JSON key that holds the text")
    check.add_argument("--tokenizer", metavar="PATH", help="folder or hub id; demo for the bundled one")
    _add_trust_remote_code(check)
    _add_json(check)
    _add_quiet(check)
    check.set_defaults(step=_check_wordlist)

    made = verbs.add_parser("import", help="from lists in other forms", description=_IMPORT, epilog=_IMPORT_EXAMPLES)
    made.add_argument("sources", nargs="+", metavar="SOURCE", help="UTF-8 files")
    made.add_argument("--out", required=True, metavar="FILE", help="the TSV to write")
    made.add_argument("--groups", default="male,female", metavar="A,B", help="in the order of columns or files")
    made.add_argument(
        "--format", default="auto", choices=("auto", "parallel", "tab", "json"), help="default: %(default)s"
    )
    made.add_argument("--key", help="which list of a JSON object of several")
    made.add_argument("--force", action="store_true", help="replace an existing file")
    _add_json(made)
    _add_quiet(made)
    made.set_defaults(step=_import_wordlist)
    return parser


def wordlist(arguments: Sequence[str]) -> None:
    """`distill wordlist check` and `distill wordlist import`.

    Raises:
        UserError: a file cannot be read or written, or the list that is checked has a mistake.
    """
    options = _wordlist_parser().parse_args(arguments)
    options.step(options)


def _check_wordlist(options: argparse.Namespace) -> None:
    from distill.text.wordlist import wordlist_mistakes
    from distill.text.wordlist_check import check_dict, check_wordlist, print_check

    with _only_results():
        tokenizer = None
        if options.tokenizer and not wordlist_mistakes(options.wordlist):  # or else nothing but the mistakes is told
            from distill.models.loading import load_tokenizer

            tokenizer = options.tokenizer, load_tokenizer(options.tokenizer, options.trust_remote_code)
        check = check_wordlist(options.wordlist, options.text, tokenizer, options.text_column)
    print(json.dumps(check_dict(check), indent=2)) if options.json else print_check(check)
    if check.mistakes:
        number = len(check.mistakes)
        raise UserError(f"{options.wordlist}: {number} mistake{'s' * (number > 1)} to mend, see above")


def _import_wordlist(options: argparse.Namespace) -> None:
    from distill.text.wordlist_import import import_dict, import_wordlist, print_import

    groups = options.groups.split(",")
    imported = import_wordlist(options.sources, options.out, groups, options.format, options.key, options.force)
    print(json.dumps(import_dict(imported), indent=2)) if options.json else print_import(imported)


# ------------------------------------------------------------------------------------------------------------ score

_PROMPTS = """--prompts takes a .txt file with one prompt a line, a .tsv file with the header group, subject, prompt (or
group, occupation), a .json file {group: {subject: [prompt, ...]}}, or a BOLD folder or hub id. A .tsv file looks so,
with tabs between the columns; recipes/nations/prompts.tsv is a longer one:
  group   subject   prompt
  care    nurse     The nurse said that"""

_SCORE = """Measure checkpoints side by side: a table with 95% intervals and the paired differences of the last one to
the others. The output folder gets a page to open in a browser (report.html), the same as text (report.md), and
scores.json. Metrics on held-out text need --texts, benchmarks need --data; without them they are not measured.
--correlate also sets intrinsic and extrinsic scores side by side, with rank correlations over the models of all
scores.json in the output folder and in the folders beside it, as far as they were measured alike. The metrics are
explained in distill/metrics/README.md."""

_SCORE_EXAMPLES = """examples:
  distill score outputs/quickstart/student --against outputs/quickstart/baseline --metrics next_word_disparity
  distill score openai-community/gpt2 --texts held-out.txt --prompts AmazonScience/bold --output_dir outputs/gpt2-scores
  distill score outputs/mine/student --members in.jsonl --others out.jsonl --reference demo --output_dir outputs/memory
  distill score outputs/*/student --metrics crows_pairs,weat,occupations --data path/to/data --output_dir outputs/sides
"""


def _score_parser() -> Any:
    import jsonargparse

    from distill.recipe import WHILE_TRAINING, ScoreConfig

    parser = jsonargparse.ArgumentParser(prog="distill score", description=_SCORE, exit_on_error=False)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="Folder or hub id of a model.")
    parser.add_argument("--against", metavar="CHECKPOINT", help="A model to compare with.")
    parser.add_argument("--output_dir", default="outputs/scores", metavar="DIR", help="Where page and scores.json go.")
    parser.add_argument(
        "--texts", nargs="+", default=[], metavar="FILE", help="Held-out texts: .txt, .jsonl, .csv, .parquet ..."
    )
    parser.add_argument("--text_column", default="text", help="Column or JSON key that holds texts or message lists.")
    parser.add_argument("--split", default="train", help="Which split to read, where a folder holds several.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of sampling and intervals.")
    parser.add_argument("--metrics", metavar="A,B", help="What to measure (default: what a recipe measures).")
    parser.add_argument("--correlate", action="store_true", help="Also print rank correlations, see above.")
    _add_trust_remote_code(parser)
    _add_wordlist(parser)
    _add_json(parser)
    _add_quiet(parser)
    parser.add_class_arguments(ScoreConfig, skip={"metrics", *WHILE_TRAINING})
    return parser


def _score_options(arguments: Sequence[str]) -> Any:
    import jsonargparse

    from distill.recipe import ScoreConfig
    from distill.recipe_check import parser_message

    try:
        return _score_parser().parse_args(list(arguments))
    except jsonargparse.ArgumentError as error:
        hint = "; see distill score --help"
        raise UserError(parser_message(error, ScoreConfig, arguments, "distill score", hint)) from None


def score(arguments: Sequence[str]) -> None:
    """`distill score`: checkpoints -> a table, a page and scores.json.

    Raises:
        UserError: a checkpoint, text, prompt file, word list or metric that cannot be used.
    """
    if {"-h", "--help"} & set(arguments):
        _score_parser().print_help()
        print(f"\n{_PROMPTS}\n\n{_SCORE_EXAMPLES}")
        return
    options = _score_options(arguments)

    with _only_results():
        from distill.metrics import chosen
        from distill.models.loading import labelled
        from distill.recipe import CorpusConfig, ScoreConfig
        from distill.reports.findings import Scored
        from distill.reports.report import (
            print_end,
            print_side_by_side,
            print_table,
            with_speeds,
            write_scores_report,
        )
        from distill.reports.side_by_side import measured_alike
        from distill.scoring.score import score
        from distill.scoring.scores_file import keep_asked, refuse_other_scores, scores_beside
        from distill.text.documents import read_documents

        settings = {f.name: options[f.name] for f in fields(ScoreConfig) if f.name in options and f.name != "metrics"}
        if options.metrics is not None:
            settings["metrics"] = list(chosen([name.strip() for name in options.metrics.split(",")]))
        folder = Path(options.output_dir)
        asked = {
            name: options[name]
            for name in ("checkpoints", "against", "wordlist", "texts", "text_column", "split", "seed")
        }
        refuse_other_scores(folder, asked | settings)
        corpus = CorpusConfig(source="files", files=options.texts, text_column=options.text_column, split=options.split)
        documents = list(read_documents(corpus, options.seed)) if options.texts else []
        models = labelled([*([options.against] if options.against else []), *options.checkpoints])
        common = {"wordlist": options.wordlist, "texts": documents, "seed": options.seed, "folder": folder}
        common["trust_remote_code"] = options.trust_remote_code
        scores = score(models, **common, **settings)
        keep_asked(folder, asked | settings)
        shown = with_speeds(scores, folder)
        page = write_scores_report(shown, Scored(folder, models))
    if options.json:
        print(json.dumps(scores, indent=2, ensure_ascii=False))
        return
    print_table(shown)
    if options.correlate:
        print_side_by_side(measured_alike(scores_beside(folder), folder.resolve().name))
    print_end(shown, page)


# ----------------------------------------------------------------------------------------------------------- report

_REPORT = """Set the scores of any number of runs and checkpoints side by side: report.html (one file, no network),
report.md, and scores.csv with one row for every score of every model. The last line printed is the path of the page.
RUN is a folder with a scores.json (a run, or the output folder of distill score), or a checkpoint in one."""

_REPORT_EXAMPLES = """examples:
  distill report outputs/quickstart outputs/mine
  distill report outputs/ablation/* outputs/gpt2-scores --output outputs/comparison
"""


def _report_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="distill report", description=_REPORT, epilog=_REPORT_EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, of scores, or of a scored checkpoint")
    parser.add_argument("--output", default="outputs/report", metavar="DIR", help="default: %(default)s")
    _add_json(parser)
    _add_quiet(parser)
    return parser


def report(arguments: Sequence[str]) -> None:
    """`distill report`: several scores.json -> one page, Markdown and CSV.

    Raises:
        UserError: a folder without scores, or an output folder that holds a run.
    """
    options = _report_parser().parse_args(arguments)

    from distill.reports.comparison import read_runs, score_records, warnings, write_comparison
    from distill.reports.findings import headline

    runs = read_runs(options.runs)
    written = write_comparison(runs, Path(options.output))
    if options.json:
        print(json.dumps(score_records(runs), indent=2))
        return
    for run in runs:
        print(f"{run.label}: {headline(run.scores)}")
    page, *others = written
    for line in [*warnings(runs), *(f"wrote {path}" for path in others), page.resolve()]:
        print(line)


# ------------------------------------------------------------------------------------------------------------ study

_STUDY = """Train and score every row of a study for every seed, and write study.json, study.md and pareto.svg: values
with intervals over seeds and prompts, and each row set against the plain one, or the one that it names. What is
finished is skipped, so a study that was stopped continues where it stopped, and a later call may add seeds. Benchmarks
and further held-out text need --data; without it they are not measured. All rows share one GPU at most: the first, or
that which CUDA_VISIBLE_DEVICES names."""

_STUDY_EXAMPLES = """examples:
  distill study study --data path/to/data
  distill study study --rows plain,expmean-reverse --seeds 0 --jobs 2 --output_dir outputs/short-study
"""


def _study_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="distill study", description=_STUDY, epilog=_STUDY_EXAMPLES)
    parser.add_argument("file", metavar="NAME|FILE", help="the study: rows over a recipe (YAML)")
    parser.add_argument("--data", metavar="DIR", help="folder of benchmark data and further held-out text")
    parser.add_argument("--output_dir", metavar="DIR", help="folder of all runs (default: that of the study)")
    parser.add_argument("--seeds", metavar="A,B", help="default: those of the study")
    parser.add_argument("--rows", metavar="A,B", help="students to train, plain among them (default: all)")
    parser.add_argument("--jobs", type=int, metavar="N", help="rows that train, and models that are scored, at a time")
    _add_json(parser)
    _add_quiet(parser)
    return parser


def study(arguments: Sequence[str]) -> None:
    """`distill study`: many recipes -> one table.

    Raises:
        UserError: a mistake in the study file, several GPUs are named, or a row whose run failed.
    """
    options = _study_parser().parse_args(arguments)

    seeds = None
    if options.seeds is not None:
        parts = options.seeds.split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise UserError(f"option --seeds is '{options.seeds}', but must be whole numbers joined by commas: 0,1,2")
        seeds = [int(part) for part in parts]
    rows = None if options.rows is None else [name.strip() for name in options.rows.split(",")]
    _take_one_gpu("a study uses one GPU; let it name one of them alone")
    changes = {"data": options.data, "output_dir": options.output_dir, "seeds": seeds, "jobs": options.jobs}
    with _only_results():
        from distill.study.file import read_study
        from distill.study.made import published_command
        from distill.study.report import markdown
        from distill.study.run import run_study

        command = published_command(options.file, options.data, options.seeds, options.rows, options.jobs)
        results = run_study(read_study(options.file, rows=rows, **changes), command)
    print(json.dumps(results, indent=2) if options.json else markdown(results))


# --------------------------------------------------------------------------------------------------------- generate

_GENERATE = f"""Continue prompts with one checkpoint or several, side by side, with the words of the list marked by
group. All checkpoints draw the same random numbers, so whatever differs comes from the checkpoints.

{_PROMPTS}"""

_GENERATE_EXAMPLES = """examples:
  distill generate outputs/quickstart/student --against outputs/quickstart/baseline --prompt "The nurse said that"
  distill generate openai-community/gpt2 --prompts occupations --max_prompts 20 --samples 4 --json > texts.json
"""


#: Option, its type, its default, what it means.
_DECODING: tuple[tuple[str, Callable[[str], Any], Any, str], ...] = (
    ("samples", _count, 1, "continuations for each prompt"),
    ("max_new_tokens", _count, 24, "length of a continuation, in tokens"),
    ("temperature", float, 1.0, "softmax temperature"),
    ("top_p", float, 1.0, "nucleus, as a probability; 1 keeps the whole distribution"),
    ("top_k", int, 0, "sample among this many most likely tokens; 0: all"),
    ("batch_size", _count, None, "texts generated side by side; changes the speed alone"),
    ("seed", int, 0, "seed of the sampling"),
)


def _generate_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="distill generate", description=_GENERATE, epilog=_GENERATE_EXAMPLES)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="folder or hub id of a model; demo")
    parser.add_argument("--against", metavar="CHECKPOINT", help="a model to compare with, shown first")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be given several times")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="a .txt file with one prompt a line, or any prompts that a recipe takes, such as occupations",
    )
    parser.add_argument("--max_prompts", type=_count, metavar="N", help="at most this many of --prompts")
    parser.add_argument(
        "--chat",
        action="store_true",
        help="for instruct models: put the prompts into the chat template, to be continued there",
    )
    _add_wordlist(parser)
    for name, kind, default, meaning in _DECODING:
        parser.add_argument(
            f"--{name}", type=kind, default=default, metavar="N",
            help=f"{meaning} (default: {'by device' if default is None else default})",
        )  # fmt: skip
    _add_trust_remote_code(parser)
    _add_json(parser)
    _add_quiet(parser)
    return parser


def generate(arguments: Sequence[str]) -> None:
    """`distill generate`: checkpoints and prompts -> continuations side by side.

    Raises:
        UserError: a checkpoint, prompt file or word list that cannot be used, or an option out of range.
    """
    options = _generate_parser().parse_args(arguments)
    if not options.prompt and not options.prompts:
        raise UserError("a prompt is missing: give --prompt TEXT or --prompts FILE")

    with _only_results():
        from distill.models.loading import labelled
        from distill.scoring.continuations import continuations, print_continuations, read_prompts
        from distill.text.counterfactual import Swapper
        from distill.text.wordlist import load_wordlist

        prompts = options.prompt + (read_prompts(options.prompts, options.max_prompts) if options.prompts else [])
        models = labelled([*([options.against] if options.against else []), *options.checkpoints])
        names = ("chat", "trust_remote_code", *(name for name, *_ in _DECODING))
        settings = {name: getattr(options, name) for name in names}
        found = continuations(models, prompts, Swapper(load_wordlist(options.wordlist)), **settings)
    print(json.dumps(found, indent=2, ensure_ascii=False)) if options.json else print_continuations(found)


# ------------------------------------------------------------------------------------------------------------- demo

_DEMO = """Serve a local page over finished runs and checkpoints, the models side by side: what each expects next and
what the target of the mitigation makes of it, what they write, what a word list does to a text, and the report. Nothing
leaves this machine. The address is the first line. Needs the extra `demo`: pip install 'distill[demo]'.

With --export, write a folder instead that a Hugging Face Space runs as it is, models included."""

_DEMO_EXAMPLES = """examples:
  distill demo outputs/quickstart
  distill demo outputs/quickstart outputs/mine --port 8000 --no-browser
  distill demo outputs/quickstart --export outputs/space
"""


def _demo_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="distill demo", description=_DEMO, epilog=_DEMO_EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run, a checkpoint or hub id; demo")
    parser.add_argument("--wordlist", metavar="NAME|PATH", help="several joined by + (default: that of the run)")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="HOST", help="0.0.0.0 for all networks (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="0 for any free one (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="open no browser")
    parser.add_argument("--export", metavar="DIR", help="write the page as a folder for a Space, and end")
    _add_trust_remote_code(parser)
    _add_quiet(parser)
    return parser


def demo(arguments: Sequence[str]) -> None:
    """`distill demo`: a page to try models on, served or exported.

    Raises:
        UserError: a folder that is neither a run nor a model, gradio is missing, a port that cannot be used.
    """
    options = _demo_parser().parse_args(arguments)
    folder = _new_folder(options.export, "--export") if options.export is not None else None

    address = sys.stdout
    with _only_results():
        from distill.demo.sources import read_shown

        shown = read_shown(options.runs, options.wordlist, options.trust_remote_code)
        if folder is None:
            from distill.demo.server import serve

            serve(shown, options.host, options.port, not options.no_browser, address)
            return
        from distill.demo.export import export

        export(shown, folder)
    print(options.export)


# ----------------------------------------------------------------------------------------------------------- export

_EXPORT = """Write a model in the form in which others run it: safetensors-fp16 (transformers, half the size), gguf
(llama.cpp and its kin; extra `quantization`) or onnx (ONNX Runtime; extra `onnx`). Tokenizer, generation settings, chat
template and model card go along, and an adapter is merged into its base. What was written is read back: it appears only
if its next-word disparity is the model's. Both numbers are printed, and lie beside it in disparity.json."""

_EXPORT_EXAMPLES = """examples:
  distill export outputs/quickstart/student --to gguf
  distill export outputs/quickstart/student --to onnx --output outputs/onnx
  distill export outputs/mine/student --to gguf --converter llama.cpp/convert_hf_to_gguf.py
"""

_EXPORT_FORMS = ("safetensors-fp16", "gguf", "onnx")


def _export_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="distill export", description=_EXPORT, epilog=_EXPORT_EXAMPLES)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or hub id of a model or adapter; demo")
    parser.add_argument("--to", required=True, choices=_EXPORT_FORMS, help="the form")
    parser.add_argument("--output", metavar="DIR", help="default: the model's folder with -FORM behind its name")
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    parser.add_argument(
        "--converter", metavar="FILE", help="llama.cpp's convert_hf_to_gguf.py, for what distill cannot write as gguf"
    )
    parser.add_argument(
        "--prompts", default="occupations", metavar="SOURCE", help="those of the check (default: %(default)s)"
    )
    _add_trust_remote_code(parser)
    _add_wordlist(parser)
    _add_json(parser)
    _add_quiet(parser)
    return parser


def export(arguments: Sequence[str]) -> None:
    """`distill export`: a model in another form, and its next-word disparity in both.

    Raises:
        UserError: see `distill.scoring.export.export`.
    """
    options = _export_parser().parse_args(arguments)
    checkpoint = Path(options.checkpoint)
    beside = checkpoint.resolve() if checkpoint.exists() else Path(checkpoint.name)  # of a hub id: here
    folder = _new_folder(options.output or str(beside.with_name(f"{beside.name}-{options.to}")), "--output")

    with _only_results():
        from distill.scoring.export import export as written
        from distill.text.counterfactual import Swapper
        from distill.text.wordlist import load_wordlist

        checked = written(
            options.checkpoint,
            options.to,
            folder,
            swapper=Swapper(load_wordlist(options.wordlist)),
            prompts=options.prompts,
            force=options.force,
            converter=Path(options.converter) if options.converter else None,
            trust_remote_code=options.trust_remote_code,
        )
    print(json.dumps({"folder": str(folder)} | checked.to_dict()) if options.json else f"{checked.line()}\n{folder}")


# ------------------------------------------------------------------------------------------------------- completion

_COMPLETION = """Print a script that lets a shell complete the verbs and options of distill."""

_COMPLETION_EXAMPLES = """examples:
  distill completion bash > ~/.local/share/bash-completion/completions/distill
  distill completion fish > ~/.config/fish/completions/distill.fish
"""

# What the values of options with these placeholders are completed by.
_PLACEHOLDERS_OF_PATHS = {
    "FILE", "DIR", "FOLDER", "PATH", "RUN", "SOURCE", "CHECKPOINT", "CONFIG",
    "NAME|PATH", "NAME|FILE", "ID|FOLDER|FILE",
}  # fmt: skip


def _completion_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="distill completion", description=_COMPLETION, epilog=_COMPLETION_EXAMPLES)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that will read it")
    return parser


def completion(arguments: Sequence[str]) -> None:
    """`distill completion`: a completion script for the shell."""
    options = _completion_parser().parse_args(arguments)

    import shtab

    everything = argparse.ArgumentParser(prog="distill")
    everything.add_argument("--version", action="store_true", help="print the version")
    verbs = everything.add_subparsers(dest="verb")
    for name, verb in VERBS.items():
        parser = verb.parser()
        _complete_paths(parser)
        verbs.add_parser(name, parents=[parser], add_help=False, help=verb.summary)
    print(shtab.complete(everything, options.shell))


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    """Tell shtab which values are paths, in this parser and those under it."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete_paths(below)
        elif action.metavar in _PLACEHOLDERS_OF_PATHS or action.dest == "config":
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab reads it
        if isinstance(action.help, str) and action.help != argparse.SUPPRESS and not isinstance(parser, _Parser):
            action.help = action.help.replace("%", "%%")  # jsonargparse's are no templates


# ------------------------------------------------------------------------------------------------------------ entry


@dataclass(frozen=True)
class Verb:
    """A verb of the command: what it does in a line, the function that does it, and what makes its parser.

    The parser is asked for by shell completion too; `run` is given the arguments behind the verb.
    """

    summary: str
    run: Callable[[Sequence[str]], None]
    parser: Callable[[], argparse.ArgumentParser]


VERBS = {
    "train": Verb("run a recipe: text, teacher and student, scores, report", train, _train_parser),
    "recipes": Verb("the recipes that come with distill, by name", recipes, _recipes_parser),
    "generate": Verb("continuations of several checkpoints side by side", generate, _generate_parser),
    "score": Verb("measure checkpoints side by side", score, _score_parser),
    "report": Verb("compare runs and checkpoints: a page, Markdown and CSV", report, _report_parser),
    "study": Verb("train and score the rows of a study, and set them side by side", study, _study_parser),
    "demo": Verb("a page to try runs and checkpoints on", demo, _demo_parser),
    "export": Verb("a model as safetensors-fp16, gguf or onnx, measured again", export, _export_parser),
    "swap": Verb("the counterfactual of a text", swap, _swap_parser),
    "wordlist": Verb("check a word list, or import one", wordlist, _wordlist_parser),
    "completion": Verb("let a shell complete verbs and options", completion, _completion_parser),
}

_VERB_LINES = "\n".join(f"  {name:<10}  {verb.summary}" for name, verb in VERBS.items())
_EPILOG = f"""verbs:
{_VERB_LINES}

examples:
  distill train --config debug
  distill train --help

Results go to standard output and progress to standard error; --quiet leaves out the progress. --json prints the
result for machines.

exit codes:
    0  done
    {EXIT_USER_ERROR}  a mistake in the input, told in one sentence
  130  stopped by Ctrl-C
  143  stopped by SIGTERM (kill, a scheduler)
    1  anything else
"""


def _dispatch(arguments: Sequence[str]) -> None:
    parser = _Parser(
        prog="distill",
        usage="distill VERB ...",
        description="Distil causal language models and mitigate their bias on the way.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"distill {__version__}")
    parser.add_argument("verb", nargs="?", choices=VERBS, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.verb is None:
        parser.error(f"a verb is missing: {', '.join(VERBS)}")
    VERBS[options.verb].run(options.arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console command; returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    continues = bool({"train", "score", "study"} & set(given[:1])) or "--dataset" in given
    try:
        return run_entry(_dispatch, given, continues)
    except BrokenPipeError:  # the reader (head, less) has seen enough; nothing may be written to it while we leave
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
