"""A small folder laid out like the benchmark data, for metrics on representations and on downstream classifiers."""

import json
import lzma
import random
from pathlib import Path

import numpy as np
import torch

import distill
from distill.metrics import Evaluation
from distill.metrics.association import GENDER_TESTS, OTHER_TESTS, PARTS
from distill.recipe import ScoreConfig
from distill.text.wordlist import load_wordlist

MEN, WOMEN = ("king", "man", "doctor", "he"), ("queen", "woman", "nurse", "she")
THINGS = ("book", "coat", "that", "happened", "late", "tired", "nothing", "took")
GENDER = (
    "male\tfemale\twhen\nhe\tshe\t\nhim\ther\tobject\nhis\ther\tdeterminer\nhis\thers\tpronoun\nking\tqueen\t\n"
    "man\twoman\t\n"
)
DEMO_TEACHER = str(Path(distill.__file__).parent / "assets" / "demo-teacher")
SETTINGS = ScoreConfig(bootstrap=100, batch_size=3)


def write_seat(folder: Path) -> Path:
    """Every test of words and of sentences, over the words of the toy tokenizer."""
    (folder / "seat").mkdir(parents=True)
    for number, test in enumerate((*GENDER_TESTS, *OTHER_TESTS)):
        things = random.Random(number).sample(THINGS, 4)
        sets = (MEN, WOMEN, things[:2], things[2:])
        sentences = [[f"This is {w}." if i % 2 else f"The {w} is here." for w in s for i in (0, 1)] for s in sets]
        for name, of in ((f"{test}.jsonl", sets), (f"sent-{test}.jsonl", sentences)):
            table = {
                p: {"category": p.upper(), "examples": list(examples)} for p, examples in zip(PARTS, of, strict=True)
            }
            (folder / "seat" / name).write_text(json.dumps(table, indent=2), encoding="utf-8")
    return folder


def write_hatexplain(folder: Path, sizes=(40, 20, 20), seed: int = 0) -> Path:
    """Harmless texts; those that hold "late" stand for the toxic ones, mostly."""
    (folder / "hatexplain").mkdir(parents=True)
    rng = random.Random(seed)
    for split, size in zip(("train", "val", "test"), sizes, strict=True):
        rows = []
        for _ in range(size):
            toxic = rng.random() < 0.5
            words = rng.sample([*MEN, *WOMEN, *THINGS], 5) + (["late"] if toxic != (rng.random() < 0.1) else [])
            rows.append([" ".join(words), rng.choice(["offensive", "hatespeech"]) if toxic else "normal"])
        (folder / "hatexplain" / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def write_people(folder: Path, each: int = 16, seed: int = 0, more: str = "") -> Path:
    """As many women as men who act and who write; the texts of the first two of each kind end with `more`."""
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    rows = []
    for gender in "fm":
        for work in ("actress" if gender == "f" else "actor", "writer"):
            for number in range(each):
                pronoun, noun = ("She", "woman") if gender == "f" else ("He", "man")
                things = " ".join(rng.sample(THINGS, 3)) + (" book" if work == "writer" else " coat")
                text = f"Doe{number} (born 19{number}) was a tired {work}. {pronoun} saw the {noun} {things}."
                rows.append({"page": f"Doe{number}", "gender": gender, "text": text + more * (number < 2)})
    rng.shuffle(rows)
    for split, part in (("train", rows[:-8]), ("validation", rows[-8:])):
        with lzma.open(folder / "corpus" / f"wikipedia_people.{split}.jsonl.xz", "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in part)
    return folder


def evaluation_of(model, tokenizer, folder: Path | None, words: str | None = GENDER, **fields) -> Evaluation:
    """An evaluation on the data of a folder, with a word list given as text, or the bundled one."""
    fields = {"settings": ScoreConfig(**vars(SETTINGS) | {"data": None if folder is None else str(folder)})} | fields
    wordlist = load_wordlist("english_gender")
    if words is not None:
        path = Path(folder, "words.tsv")
        path.write_text(words, encoding="utf-8")
        wordlist = load_wordlist(path)
    return Evaluation(model, tokenizer, wordlist, **fields)


def plain_states(model, tokenizer, text: str) -> np.ndarray:
    """(L, D) last hidden states of one text behind the start token, with plain transformers code."""
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        output = model(torch.tensor([ids]), output_hidden_states=True)
    return output.hidden_states[-1][0].double().numpy()


def plain_vector(model, tokenizer, text: str) -> np.ndarray:
    """(D,) mean over the tokens of a text, the start token left out."""
    return plain_states(model, tokenizer, text)[1:].mean(axis=0)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def plain_associations(targets, first, second) -> list[float]:
    """s(w) of each target, pair by pair."""
    return [float(np.mean([cosine(w, a) for a in first]) - np.mean([cosine(w, b) for b in second])) for w in targets]


def plain_effect_size(first, second) -> float:
    """From the s of X and of Y."""
    return float((np.mean(first) - np.mean(second)) / np.std([*first, *second], ddof=1))
