"""A student -> the forms in which others run models, each read back and measured before it appears.

    safetensors-fp16   the same in 16 bits, for transformers            read back by transformers
    gguf               one file for llama.cpp and its kin               read back by transformers
    onnx               a graph for ONNX Runtime, without a cache        run by ONNX Runtime

What is written lies under another name until its next-word disparity is known to be the student's; `disparity.json`
keeps both numbers. Tokenizer, generation settings, chat template and model card go along.
"""

import contextlib
import io
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from distill.base.console import say
from distill.base.errors import UserError, first_line
from distill.base.files import can_be_written, write_folder, write_json
from distill.metrics import Evaluation
from distill.metrics.log_ratio import log_ratio
from distill.models.architecture import without_warnings
from distill.models.generation import sound_settings
from distill.models.loading import load_config, load_model, load_tokenizer, model_source
from distill.models.quantization import forget_gguf, gguf_loading, is_quantized, quiet_logs
from distill.scoring.gguf_file import check_gguf, run_converter, write_gguf
from distill.scoring.measure import usable_prompts
from distill.scoring.score import versions
from distill.text.counterfactual import Swapper
from distill.text.prompts import Prompt

CHECK = "disparity.json"
MODEL = "model"
_OF_ONE_PROMPT = 10  # times the tolerance of the mean
_CARDS = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md")


@dataclass(frozen=True)
class Format:
    """A form of a model.

    Args:
        write: (model, tokenizer, folder) -> the model's files in the folder.
        read: (folder, whether its own code is run) -> the model in it, to be measured.
        packages: What both need, by the names that are imported.
        extra: The extra that brings these.
        tolerance: What the next-word disparity, a mean of logarithms, may differ by; the log ratio of a single prompt
            may by ten times as much.
    """

    write: Callable[[PreTrainedModel, PreTrainedTokenizerBase, Path], None]
    read: Callable[[Path, bool], Any]
    packages: tuple[str, ...]
    extra: str
    tolerance: float


@dataclass(frozen=True)
class Checked:
    """The next-word disparity of a student and of its export, on the same prompts.

    largest: By how much the log ratio of a single prompt differs at most.
    """

    student: float
    export: float
    largest: float
    prompts: int
    tolerance: float

    def to_dict(self) -> dict[str, float]:
        """What `disparity.json` holds of it."""
        return {**vars(self), "difference": self.export - self.student}

    def line(self) -> str:
        """The same as a line to read."""
        return (
            f"next-word disparity {self.student:.4f} of the student, {self.export:.4f} of the export, on "
            f"{self.prompts} prompts (within {self.tolerance:g}; a single prompt's log ratio differs by "
            f"{self.largest:.2g} at most)"
        )


def export(
    path: str,
    to: str,
    folder: Path,
    *,
    swapper: Swapper,
    prompts: str,
    force: bool = False,
    converter: Path | None = None,
    trust_remote_code: bool = False,
) -> Checked:
    """Write a model in another form.

    Args:
        path: A folder or hub id; an adapter is merged into its base.
        to: One of `FORMATS`.
        folder: Where it goes.
        swapper: Of the word list whose groups are compared.
        prompts: After which, see `load_prompts`.
        force: Replace an earlier export.
        converter: llama.cpp's script, for `gguf`.
        trust_remote_code: Run code that comes with the model.

    Raises:
        UserError: there is no such model, something lies at `folder`, a package is missing, the form cannot hold the
            model, or what was written is not what the student is: nothing is left of it then.
    """
    form = FORMATS[to]
    _require_packages(to, form)
    if converter is not None and to != "gguf":
        raise UserError(f"--converter is of --to gguf, and --to is {to}; leave one of the two out")
    if converter is not None and not converter.is_file():
        raise UserError(f"--converter {converter}: no such file; it is llama.cpp's convert_hf_to_gguf.py")
    _require_place(path, folder, force)
    asked = usable_prompts(prompts, None, 0, swapper)[0]
    model, tokenizer = load_model(path, trust_remote_code=trust_remote_code), load_tokenizer(path, trust_remote_code)
    if is_quantized(model):
        raise UserError(f"{path}: its weights are quantised already; export the model that they were made of")
    if to == "gguf" and converter is None:
        check_gguf(path, model, tokenizer)
    before = _ratios(model, tokenizer, swapper, asked)
    found: list[Checked] = []

    def fill(place: Path) -> None:
        _write_beside(model, tokenizer, path, place)
        if converter is not None:
            _convert(converter, model, tokenizer, place)
        else:
            form.write(model, tokenizer, place)
        say("reading it back")
        read = form.read if converter is None else _read_converted
        after = _ratios(read(place, trust_remote_code), tokenizer, swapper, asked)
        found.append(_compared(to, before, after, form.tolerance))
        of_list = {"name": swapper.wordlist.name, "sha256": swapper.wordlist.sha256}
        about = {"format": to, "wordlist": of_list, "prompts_of": prompts, "versions": versions("cpu")}
        write_json(place / CHECK, found[0].to_dict() | about)

    write_folder(folder, fill)
    return found[0]


# ----------------------------------------------------------------------------------------------------- what is asked


def _require_packages(to: str, form: Format) -> None:
    if missing := [package for package in form.packages if find_spec(package) is None]:
        package = f"package {missing[0]}" if len(missing) == 1 else f"packages {', '.join(missing)}"
        raise UserError(f"--to {to} needs the {package}; pip install 'distill[{form.extra}]'")


def _require_place(path: str, folder: Path, force: bool) -> None:
    """Raises UserError where the export would go over something, or where nothing may be written."""
    if Path(path).exists() and (folder.resolve() == Path(path).resolve()):
        raise UserError(f"--output {folder}: is the model itself; choose another folder")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not (folder / CHECK).is_file():
            raise UserError(f"--output {folder}: holds something that is no export; choose another folder")
        if not force:
            raise UserError(f"--output {folder}: holds an export already; add --force to replace it")
    if not can_be_written(folder.absolute().parent):
        raise UserError(f"--output {folder}: cannot be written; choose another folder")


# -------------------------------------------------------------------------------------------------------- the check


def _ratios(model: Any, tokenizer: Any, swapper: Swapper, prompts: list[Prompt]) -> np.ndarray:
    """The log ratio of the groups after each prompt, as the metric takes it; NaN where a model has no room for one."""
    evaluation = Evaluation(model, tokenizer, swapper.wordlist, (), prompts, swapper=swapper)
    with np.errstate(invalid="ignore"):
        return log_ratio(evaluation.next_word_masses)


def _compared(to: str, before: np.ndarray, after: np.ndarray, tolerance: float) -> Checked:
    """Raises UserError where the two lie apart, or one of them says nothing where the other one does."""
    usable = np.isfinite(before)
    if not usable.any():
        raise UserError("no prompt gives the listed words a probability to compare by; use another --wordlist")
    if not np.isfinite(after[usable]).all():
        raise UserError(f"--to {to}: what was written says nothing after some prompts; the export was not kept")
    sizes = [float(np.abs(ratios[usable]).mean()) for ratios in (before, after)]
    largest = float(np.abs(after - before)[usable].max())
    checked = Checked(sizes[0], sizes[1], largest, int(usable.sum()), tolerance)
    # Means may agree by chance where prompts do not.
    if abs(sizes[1] - sizes[0]) > tolerance or largest > _OF_ONE_PROMPT * tolerance:
        raise UserError(f"--to {to}: what was written is another model: {checked.line()}; the export was not kept")
    return checked


# ------------------------------------------------------------------------------------------------- what goes along


def _write_beside(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str, place: Path) -> None:
    """Configuration, generation settings, tokenizer with its chat template, model card and licence."""
    model.config.save_pretrained(place)
    if model.generation_config is not None:
        sound_settings(model.generation_config)[0].save_pretrained(place)
    tokenizer.save_pretrained(place)
    for name in _CARDS:
        if found := _file_of(path, name):
            shutil.copy(found, place / name)


def _file_of(path: str, name: str) -> str | None:
    """A file beside a model, by its folder or hub id; None where there is none."""
    source = model_source(path)
    if Path(source).exists():  # a file, in GGUF, has none of its own
        return str(Path(source, name)) if Path(source, name).is_file() else None
    try:
        found: str | None = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    except OSError:  # not to be had; the model itself was loaded
        return None
    return found


# ------------------------------------------------------------------------------------------------------- the formats


def _write_fp16(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, place: Path) -> None:
    weights = {name: weight.half() for name, weight in model.state_dict().items() if weight.is_floating_point()}
    if broken := next((name for name, weight in weights.items() if not weight.isfinite().all()), None):
        raise UserError(
            f"--to safetensors-fp16: {broken} has numbers that 16 bits cannot hold; keep the model as it is"
        )
    dtype = model.dtype
    try:
        model.half().save_pretrained(place)
    finally:
        model.to(dtype)


def _read_fp16(place: Path, trusted: bool) -> PreTrainedModel:
    return load_model(str(place), trust_remote_code=trusted)


def _write_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, place: Path) -> None:
    write_gguf(model, tokenizer, place / f"{MODEL}.gguf")


def _convert(converter: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, place: Path) -> None:
    """The converter reads a folder: that of the model itself may be a hub id, or an adapter's."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        run_converter(converter, Path(folder), place / f"{MODEL}.gguf")


def _read_gguf(place: Path, _trusted: bool) -> PreTrainedModel:
    with _silent():
        return load_model(str(place / f"{MODEL}.gguf"))


def _read_converted(place: Path, trusted: bool) -> PreTrainedModel:
    """By config.json: of other architectures transformers does not take all from a file that llama.cpp does."""
    settings = gguf_loading(str(place), f"{MODEL}.gguf")
    with _silent():
        settings |= {"config": load_config(str(place), trusted), "trust_remote_code": trusted}
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **settings)
    forget_gguf(model)
    return model.eval()


def _write_onnx(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, place: Path) -> None:
    """By transformers' own exporter, as one graph: token ids and attention mask -> logits."""
    try:
        from transformers.exporters import OnnxConfig, OnnxExporter
    except ImportError:
        raise UserError("--to onnx needs a newer transformers; pip install --upgrade transformers") from None

    # Two of each, and unlike one another: torch would take a size of 1 for one that never changes.
    ids = torch.zeros((2, 7), dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    with _silent():
        try:
            exported = OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic=True))
            exported.save_pretrained(place)
        except Exception as error:  # of torch's compiler, onnxscript or transformers
            raise UserError(
                f"--to onnx: transformers cannot export a {model.config.model_type}: {first_line(error)}"
            ) from None


class _OnnxModel(nn.Module):
    """What ONNX Runtime makes of a graph, called as a model is."""

    def __init__(self, path: Path, config: Any) -> None:
        super().__init__()
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.config, self.device = config, torch.device("cpu")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **settings: Any) -> SimpleNamespace:
        given = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        wanted = {entry.name: given[entry.name] for entry in self._session.get_inputs()}
        return SimpleNamespace(logits=torch.from_numpy(self._session.run(["logits"], wanted)[0]))


def _read_onnx(place: Path, trusted: bool) -> _OnnxModel:
    return _OnnxModel(place / f"{MODEL}.onnx", load_config(str(place), trusted))


@contextmanager
def _silent() -> Iterator[None]:
    """Exporters print their steps, and warn of what the check after them looks at."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        quiet_logs(),
        warnings.catch_warnings(action="ignore"),
        without_warnings(),
    ):
        yield


FORMATS: Mapping[str, Format] = {
    "safetensors-fp16": Format(_write_fp16, _read_fp16, (), "", 0.01),
    "gguf": Format(_write_gguf, _read_gguf, ("gguf",), "quantization", 0.01),
    "onnx": Format(_write_onnx, _read_onnx, ("onnx", "onnxscript", "onnxruntime"), "onnx", 0.001),
}
