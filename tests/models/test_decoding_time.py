"""What models share whose predictions are changed as they are made."""

import torch

from distill.metrics import Evaluation
from distill.models.architecture import backbone
from distill.models.decoding_time import DecodingTimeModel


class Unchanged(DecodingTimeModel):
    """Predicts what its model does."""

    def predictions(self, rows):
        """See there."""
        return self.logits_of(rows).log_softmax(-1)


def test_rows_of_any_length_and_padding_are_answered_as_the_model_does(toy_model, toy_tokenizer):
    inner = toy_model(seed=3)
    model = Unchanged(inner, toy_tokenizer)
    ids = torch.tensor([[5, 6, 7, 8], [9, 9, 3, 4]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1]])
    found = model(input_ids=ids, attention_mask=mask).logits
    for row, real in enumerate(mask.bool()):
        with torch.no_grad():
            want = inner(input_ids=ids[row : row + 1, real]).logits[0].log_softmax(-1)
        torch.testing.assert_close(found[row, real], want, atol=1e-5, rtol=1e-5)
        assert not found[row, ~real].any()
    assert backbone(model) is inner.base_model
    assert model.generation_config.to_dict() == inner.generation_config.to_dict()


def test_metrics_take_it_for_a_model(toy_model, toy_tokenizer, short_wordlist):
    inner = toy_model(seed=3)
    documents = ["He said that she was late.", "The king."]
    ours, theirs = (
        Evaluation(model, toy_tokenizer, short_wordlist, documents).likelihoods
        for model in (Unchanged(inner, toy_tokenizer), inner)
    )
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), atol=1e-4, rtol=1e-4)
