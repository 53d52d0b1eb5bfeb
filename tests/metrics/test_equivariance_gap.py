"""The equivariance gap position by position, and of a model that treats groups alike."""

import pytest
import torch
from measuring import DOCUMENTS, scored


def test_a_model_that_treats_groups_alike_has_no_gap(bigram, evaluated, toy_tokenizer):
    """P(next | last) = (T(next | last) + T(partner of next | partner of last)) / 2 for any table T."""
    words = "a\tb\nhe\tshe\nking\tqueen\n"
    documents = [document for document in DOCUMENTS if not document.startswith("He")]  # "She" is two tokens here.
    model = bigram()
    model.table = torch.randn(model.table.shape, generator=torch.Generator().manual_seed(0))
    partner = torch.arange(len(toy_tokenizer))
    for source, destination in evaluated(model, words).roles.edges[0]:
        partner[source] = destination
    biased = scored("equivariance_gap", evaluated(model, words, documents=documents))
    probabilities = model.table.softmax(-1)
    model.table = ((probabilities + probabilities[partner][:, partner]) / 2).log()
    fair = scored("equivariance_gap", evaluated(model, words, documents=documents))
    assert biased.value > 0.05
    assert fair.value == pytest.approx(0, abs=1e-6)
    assert fair.n == biased.n
    assert fair.undetected == pytest.approx(1 / 3)  # One of the documents holds no word of the list.


def test_equivariance_gap_position_by_position(toy_model, toy_tokenizer, evaluated):
    """Alignment by characters, one text at a time, KL as its definition has it."""
    model = toy_model(seed=1)
    evaluation = evaluated(model)
    total, aligned = 0.0, 0
    for document in DOCUMENTS:
        (edited,) = evaluation.swapper.counterfactuals(document) or [None]
        if edited is None or not edited.spans:
            continue
        to_edited = {0: 0}  # Character boundary -> boundary in the counterfactual, outside of edited words.
        shift = 0
        for boundary in range(len(document) + 1):
            span = next((s for s in edited.spans if s.start < boundary <= s.end), None)
            if span is not None and boundary == span.end:
                shift = span.cf_end - span.end
            if span is None or boundary == span.end:
                to_edited[boundary] = boundary + shift
        sides = []
        for text in (document, edited.text):
            encoded = toy_tokenizer(text, return_offsets_mapping=True)
            ids = [toy_tokenizer.bos_token_id, *encoded["input_ids"]]
            ends = [0, *(end for _, end in encoded["offset_mapping"])]
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            sides.append({end: logits[i] for i, end in enumerate(ends)})
        for end, own in sides[0].items():
            if (other := sides[1].get(to_edited.get(end))) is not None:
                target = evaluation.role_maps[0].reverse(own[None], other[None])[0]
                total += float((own.exp() * (own - target)).sum())
                aligned += 1
    outcome = scored("equivariance_gap", evaluation)
    assert outcome.n == aligned
    assert outcome.value == pytest.approx(total / aligned, rel=1e-4)


def test_long_documents_are_read_up_to_the_context(toy_model, evaluated):
    model = toy_model(n_positions=12)
    for metric in ("equivariance_gap", "corpus_disparity"):
        long = scored(metric, evaluated(model, documents=[" ".join(DOCUMENTS), DOCUMENTS[0] * 9]))
        assert long.value is not None
        assert long.n <= 24
