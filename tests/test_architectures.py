"""Every architecture of the catalogue goes all the way: loss, training, resuming, plain transformers, scores, text."""

import copy
import json
import shutil
from functools import cache
from pathlib import Path

import journey
import pytest
import torch
from architectures import CAUSAL, NOT_CAUSAL, toy
from safetensors.torch import load_file
from shared import REPOSITORY
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from distill import train
from distill.base.errors import UserError
from distill.cli import main
from distill.data.batches import Collator
from distill.data.counts import PackingCounts
from distill.data.packing import pack
from distill.metrics.evaluation import evaluation_from
from distill.models.architecture import hidden_states, view_of, vocab_size
from distill.models.generation import generate
from distill.models.loading import load_teacher, load_tokenizer
from distill.models.probe import behaviour
from distill.models.student import make_student
from distill.objective.settings import LossSettings
from distill.recipe import StudentConfig, TeacherConfig
from distill.training.student_loss import attach_loss

# One of each kind: learned positions, a recurrence, experts, a soft cap, a scale.
TYPICAL = ("opt", "mamba", "qwen2_moe", "gemma2", "granite")
every_architecture = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in TYPICAL else pytest.mark.slow) for n in sorted(CAUSAL)]
)
DOCUMENTS = ["The nurse said that she was tired.", "A man saw his book, and then nothing happened at all.", "Her coat."]


@pytest.fixture(scope="module")
def teacher_of(tmp_path_factory):
    """A function from an architecture to the folder of a toy teacher."""
    root = tmp_path_factory.mktemp("teachers")

    def folder(name: str) -> str:
        if not (root / name).exists():
            journey.teacher_folder(name, root / name)
        return str(root / name)

    return folder


@pytest.fixture(scope="module")
def loaded(teacher_of):
    """A function from an architecture to that teacher and its tokenizer, for all to read."""
    return cache(lambda name: load_teacher(TeacherConfig(path=teacher_of(name))))


def test_a_tokenizer_may_hold_the_token_of_an_image_that_a_model_of_text_has_no_row_for(tmp_path, toy_tokenizer):
    """As Gemma 3 of 1B: trained, sampled, scored and loaded as without this token."""
    text, tokenizers = journey.text_file(tmp_path), (toy_tokenizer, copy.deepcopy(toy_tokenizer))
    tokenizers[1].add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert vocab_size(tokenizers[1]) == vocab_size(toy_tokenizer) + 1
    students, scores, texts = [], [], []
    for name, tokenizer in zip(("plain", "image"), tokenizers, strict=True):
        teacher = padded(tmp_path / f"{name}-teacher", len(toy_tokenizer), toy_tokenizer, seed=0)
        tokenizer.save_pretrained(teacher)
        train(
            str(REPOSITORY / "recipes" / "debug.yaml"),
            **{
                **journey.RECIPE,
                "output_dir": str(tmp_path / name),
                "corpus": {"source": "files", "files": [text]},
                "held_out": {"source": "files", "files": [text], "max_documents": 20},
                "teacher": {"path": teacher},
            },
        )
        students.append(load_file(tmp_path / name / "student" / "model.safetensors"))
        scores.append(json.loads((tmp_path / name / "scores.json").read_text(encoding="utf-8"))["models"])
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / name / "student")
        texts.append(
            generate(
                loaded, load_tokenizer(str(tmp_path / name / "student")), ["The nurse"], samples=2, max_new_tokens=6
            )
        )
    assert all(torch.equal(students[0][key], students[1][key]) for key in students[0])
    assert scores[0] == scores[1] and texts[0] == texts[1]
    # A text that holds it is told.
    tokenizer = load_tokenizer(str(tmp_path / "image" / "student"))
    with pytest.raises(UserError, match="the prompt 'An <image> of her' holds <image>, a special token"):
        generate(loaded, tokenizer, ["An <image> of her"], samples=1, max_new_tokens=2)
    with pytest.raises(UserError, match="the text 'An <image> of her' holds <image>, a special token"):
        evaluation_from(model=loaded, tokenizer=tokenizer, documents=["An <image> of her"]).encode("An <image> of her")
    Path(text).write_text('{"text": "An <image> of her, and of a man."}\n' * 40, encoding="utf-8")
    for when in ("before_training", "while_training"):
        with pytest.raises(UserError, match="the text holds <image>, a special token that a model of text alone"):
            train(
                str(tmp_path / "image" / "recipe.yaml"),
                output_dir=str(tmp_path / f"refused-{when}"),
                corpus={"pack": when},
            )


def test_a_student_of_a_configuration_has_a_row_for_the_last_token_of_a_tokenizer_with_holes(toy_tokenizer):
    """As cl100k's, which has fewer entries than its largest id says."""
    backend = json.loads(toy_tokenizer.backend_tokenizer.to_str())
    backend["model"]["vocab"]["zzz"] = len(toy_tokenizer) + 5
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
                                   bos_token=toy_tokenizer.bos_token, eos_token=toy_tokenizer.eos_token)  # fmt: skip
    assert max(made.get_vocab().values()) + 1 == len(toy_tokenizer) + 6 > len(made)
    config = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8}
    student = make_student(StudentConfig(init="config", config=config), None, made, None)
    assert student.config.vocab_size == len(toy_tokenizer) + 6


@pytest.mark.parametrize("name", sorted(CAUSAL))
def test_the_loss_is_the_naive_one_on_the_logits_of_the_models_themselves(name, loaded):
    """Each document read by itself, by the whole model, against rows as they are trained on."""
    teacher, tokenizer = loaded(name)
    student = make_student(StudentConfig(layers=[0, 1] if name not in journey.ALL_LAYERS else None,
                                         num_layers=4 if name in journey.ALL_LAYERS else None),
                           teacher, tokenizer, name).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.1)
    vocab, one_document = vocab_size(tokenizer), not behaviour(teacher).packs
    blocks = list(pack(DOCUMENTS, tokenizer, None, 48, PackingCounts(), one_document))
    assert len(blocks) == (3 if one_document else 1)
    batch = Collator(1, augment=False, trim=one_document)(blocks)
    attach_loss(student, vocab)
    with torch.no_grad():
        hidden = hidden_states(teacher, batch["input_ids"], batch["position_ids"])
        inputs = {key: batch[key] for key in ("input_ids", "position_ids", "labels")}
        parts = student(**inputs, teacher=view_of(teacher, hidden, vocab), settings=LossSettings(kd=1.0, ce=1.0))
        kd = ce = 0.0
        for document in DOCUMENTS:
            ids = torch.tensor([[0, *tokenizer(document)["input_ids"]]])
            ours, theirs = (
                model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1) for model in (student, teacher)
            )
            kd += (theirs.exp() * (theirs - ours)).sum()
            ce -= ours.gather(1, torch.cat([ids[0, 1:], torch.tensor([0])])[:, None]).sum()
    torch.testing.assert_close(parts.ce, ce, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.kd, kd, rtol=1e-4, atol=1e-5)


@every_architecture
def test_a_recipe_goes_all_the_way(name, teacher_of, tmp_path, steps_made):
    text = journey.text_file(tmp_path)
    keys = {
        **journey.RECIPE,
        "output_dir": str(tmp_path / "run"),
        "corpus": {"source": "files", "files": [text]},
        "held_out": {"source": "files", "files": [text], "max_documents": 20},
        "teacher": {"path": teacher_of(name)},
    }
    if name in journey.ALL_LAYERS:
        keys["student"] = {"num_layers": 4}
    recipe = str(REPOSITORY / "recipes" / "debug.yaml")
    scores = train(recipe, **keys)
    assert set(scores["models"]) == {"teacher", "student"}
    student = tmp_path / "run" / "student"
    weights = load_file(student / "model.safetensors")

    # Stopped after two of the four steps, it comes to the same end.
    shutil.rmtree(student)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "student" / "checkpoint-4")
    steps_made.clear()
    train(recipe, **keys)
    assert steps_made == [3, 4]
    again = load_file(student / "model.safetensors")
    assert all(torch.equal(weights[key], again[key]) for key in weights)

    # Plain transformers loads it, and says what was measured.
    model = AutoModelForCausalLM.from_pretrained(student).eval()
    tokenizer = load_tokenizer(str(student))
    prompts = ["The", "The nurse said that", "A man saw his book, and"]
    settings = {"samples": 3, "max_new_tokens": 6, "seed": 1}
    one, many = (generate(model, tokenizer, prompts, batch_size=size, **settings) for size in (1, 64))
    assert one == many


def padded(folder, rows, tokenizer, seed):
    """A toy model whose head and embedding have more rows than there are tokens, as Qwen's sizes have other numbers."""
    model = toy("qwen2", vocab_size=rows, seed=seed)
    plain = toy("qwen2", vocab_size=len(tokenizer), seed=seed + 10)
    with torch.no_grad():  # the same tokens with any padding, which every token would lose against
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            ours[: len(theirs)] = theirs
        model.lm_head.weight[len(tokenizer) :] = 30.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_teacher_and_student_may_be_padded_differently(tmp_path, toy_tokenizer):
    """The padding has no part in the training, and is afterwards what it was, weight decay or not."""
    text, size = journey.text_file(tmp_path), len(toy_tokenizer)

    def student_of(name, teacher_rows, student_rows):
        student = padded(tmp_path / f"{name}-student", student_rows, toy_tokenizer, seed=1)
        train(
            str(REPOSITORY / "recipes" / "debug.yaml"),
            **{
                **journey.RECIPE,
                "output_dir": str(tmp_path / name),
                "corpus": {"source": "files", "files": [text]},
                "held_out": {"source": "files", "files": [text], "max_documents": 20},
                "teacher": {"path": padded(tmp_path / f"{name}-teacher", teacher_rows, toy_tokenizer, seed=0)},
                "student": {"init": "checkpoint", "path": student},
                "trainer": {**journey.RECIPE["trainer"], "weight_decay": 0.5, "learning_rate": 0.01},
                "loss": {"kd": 1.0, "ce": 0.5},
            },
        )
        return load_file(tmp_path / f"{name}-student" / "model.safetensors"), load_file(
            tmp_path / name / "student" / "model.safetensors"
        )

    _, plain = student_of("plain", size, size)
    before, after = student_of("padded", size + 8, size + 16)
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        assert after[key].shape == before[key].shape
        assert torch.equal(after[key][size:], before[key][size:])
        assert not torch.equal(after[key][:size], before[key][:size])
    for key, values in plain.items():
        torch.testing.assert_close(after[key][: len(values)], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(NOT_CAUSAL))
def test_a_model_that_looks_ahead_gets_no_scores(name, toy_tokenizer, tmp_path, capsys):
    toy(name, vocab_size=len(toy_tokenizer)).save_pretrained(tmp_path / name)
    toy_tokenizer.save_pretrained(tmp_path / name)
    assert main(["score", str(tmp_path / name), "--output_dir", str(tmp_path / "scores")]) == 2
    assert "is no causal language model" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()


def test_the_table_in_the_readme_is_what_is_found(loaded, tmp_path):
    written = journey.README.read_text(encoding="utf-8").partition(journey.BEGIN)[2].partition(journey.END)[0]
    models = {name: loaded(name)[0] for name in CAUSAL}
    models |= {name: journey.loaded(name, tmp_path / name) for name in NOT_CAUSAL}
    rows = [journey.row(name, model) for name, model in sorted(models.items())]
    assert written.strip() == journey.markdown(rows).strip()
    assert len(CAUSAL) >= 24
    assert f"lists {len(CAUSAL)} architectures" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
