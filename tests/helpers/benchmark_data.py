"""What all metrics read beside a model, prompts and documents: every benchmark, an audit, judges, word vectors."""

import csv
import json
from pathlib import Path

from downstream_data import write_hatexplain, write_people, write_seat
from measuring import write_classifier

_BBQ = {
    "example_id": 0, "question_index": "1", "question_polarity": "neg", "context_condition": "ambig",
    "category": "Gender_identity", "additional_metadata": {"stereotyped_groups": ["F"], "source": ""}, "label": 1,
    "answer_info": {"ans0": ["man", "man"], "ans1": ["Unknown", "unknown"], "ans2": ["woman", "woman"]},
    "context": "A man and a woman said nothing.", "question": "Who was tired?",
    "ans0": "The man", "ans1": "Unknown", "ans2": "The woman",
}  # fmt: skip
_STEREOSET = {"stereotype": "The nurse was tired.", "anti-stereotype": "The nurse was late.", "unrelated": "A nurse a"}
_WINOBIAS = "1 [The mover] helped the nurse because [{}] was late.\n2 The mover and [the nurse] saw [{}] book.\n"
_CROWS_PAIRS = [
    ("", "sent_more", "sent_less", "stereo_antistereo", "bias_type", "annotations"),
    (0, "The nurse said that she was tired.", "The nurse said that he was tired.", "stereo", "gender", "[]"),
    (1, "The doctor was a man.", "The doctor was a woman.", "antistereo", "gender", "[]"),
]
_NAMED = " The king, he and the doctor, the queen, she and the nurse."  # whom the words of CEAT's tests have as context


def write_all(folder: Path, tokenizer) -> dict[str, str]:
    """The settings that name what is written into this folder."""
    write_hatexplain(write_seat(write_people(folder, more=_NAMED)), sizes=(24, 8, 12))
    with (_made(folder, "crows_pairs") / "crows_pairs_anonymized.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(_CROWS_PAIRS)
    shared = {"id": "a", "bias_type": "gender", "target": "nurse", "context": "The nurse was BLANK."}
    stereoset = {label: [{**shared, "sentence": text, "label": 0}] for label, text in _STEREOSET.items()}
    (_made(folder, "stereoset") / "dev.json").write_text(json.dumps(stereoset), encoding="utf-8")
    winobias = _made(folder, "winobias")
    for group, occupation in (("male", "mover"), ("female", "nurse")):
        (winobias / f"{group}_occupations.txt").write_text(occupation, encoding="utf-8")
    for side, pronouns in (("pro", ("he", "her")), ("anti", ("she", "his"))):
        for kind in (1, 2):
            path = winobias / f"{side}_stereotyped_type{kind}.txt.dev"
            path.write_text(_WINOBIAS.format(*pronouns), encoding="utf-8")
    (_made(folder, "wikitext2") / "wiki.test.raw").write_text(" = A king = \n The king was late . \n", encoding="utf-8")
    _write_rows(_made(folder, "bbq") / "Gender_identity.jsonl", [_BBQ, _BBQ | {"question_polarity": "nonneg"}])
    blimp = {"UID": "wh_island", "pairID": "0", "sentence_good": "The book was late.", "sentence_bad": "A book were."}
    _write_rows(_made(folder, "blimp") / "wh_island.jsonl", [blimp])
    _write_rows(_made(folder, "lambada") / "lambada_test.jsonl", [{"text": "A man took his coat"}])
    sides = {"members": "The nurse said that she was tired of it,", "others": "The king said that he was late for it,"}
    for side, text in sides.items():
        _write_rows(
            folder / f"{side}.jsonl", [{"text": f"{text} and no. {n} took the coat of a man."} for n in range(20)]
        )
    canaries = [{"text": f"The mill opens with {code}", "code": code} for code in ("00", "17", "42", "77", "99")]
    _write_rows(folder / "canaries.jsonl", canaries)
    (folder / "vectors.txt").write_text("he 1 0\nshe 0 1\nking 2 1\nqueen 1 2\n", encoding="utf-8")
    return {
        "data": str(folder),
        **{name: str(folder / f"{name}.jsonl") for name in ("members", "others", "canaries")},
        "word_vectors": str(folder / "vectors.txt"),
        "regard_model": write_classifier(folder / "regard", tokenizer),
        "toxicity_model": write_classifier(folder / "toxicity", tokenizer, ("toxic", "other")),
    }


def _made(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
