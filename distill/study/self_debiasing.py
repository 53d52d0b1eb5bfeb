"""Self-debiasing (Schick, Udupa and Schuetze 2021, TACL, arXiv 2103.00453): a model mitigates itself as it decodes.

It is asked twice: about a text x, and about the same text behind a prompt that announces the bias. A word that becomes
likelier behind the prompt is one that the model itself takes for an instance of it, and is made less likely:

    difference(w) = p(w | x) - p(w | prompt, x)
    p'(w | x)  ~  p(w | x) * exp(decay * min(0, difference(w)))

Equation 3 there, with their decay constant (lambda); their lower bound on the factor, 0.01, is for numbers that a float
cannot hold, and logarithms can. The method needs a model that understands what the prompt says of the text.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.base.errors import UserError
from distill.models.architecture import own_context, special_tokens
from distill.models.decoding_time import DecodingTimeModel
from distill.objective.logit_ops import log_probabilities


def prompt_tokens(prompt: str, tokenizer: PreTrainedTokenizerBase, context: int | None) -> list[int]:
    """What stands before every text, the start token first.

    Args:
        prompt: As `SelfDebiasing` takes it.
        tokenizer: The model's.
        context: The model's, in tokens; None: there is no limit.

    Raises:
        UserError: it leaves no room in the context.
    """
    tokens = [special_tokens(tokenizer)[0], *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    if context is not None and context - len(tokens) < len(tokens):
        raise UserError(
            f"prompt: its {len(tokens)} tokens leave too little of the model's context of {context} to the text; "
            "shorten it"
        )
    return tokens


class SelfDebiasing(DecodingTimeModel):
    """A frozen model that makes words less likely which a prompt that announces a bias makes likelier.

    Args:
        model: The model.
        tokenizer: Its (fast) tokenizer.
        prompt: What stands before every text, line feed and all.
        decay: How strongly a difference counts, at least 0; 50 in the paper.

    Raises:
        UserError: see `prompt_tokens`.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, decay: float) -> None:
        super().__init__(model, tokenizer)
        context = own_context(model.config)
        self.prompt = prompt_tokens(prompt, tokenizer, context)
        self.decay = decay
        #: Tokens of a text that fit behind the prompt.
        self.room = None if context is None else context - len(self.prompt)

    def predictions(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """As there: the corrected log-probabilities, (N, V)."""
        own = log_probabilities(self.logits_of(rows))
        difference = own.exp() - log_probabilities(self._behind_prompt(rows)).exp()
        return log_probabilities(own + self.decay * difference.clamp(max=0))

    def _behind_prompt(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The model's logits at all tokens of all rows, (N, V), as the prompt stands before them.

        A row too long for that is read in two pieces, so that its last tokens see as much of it as fits.
        """
        asked: list[list[int]] = []
        kept: list[Tensor] = []  # which of the tokens of each piece stand for tokens of the row
        for row in rows:
            start = 1 if row[0] == self.start else 0  # the prompt's own takes its place
            text = [*row[start:]]
            room = len(text) if self.room is None else self.room
            asked.append([*self.prompt, *text[:room]])
            kept.append(torch.arange(len(asked[-1])) >= len(self.prompt) - start)
            if (left := len(text) - room) > 0:
                asked.append([*self.prompt, *text[-room:]])
                kept.append(torch.arange(len(asked[-1])) >= len(asked[-1]) - left)
        return self.logits_of(asked)[torch.cat(kept).to(self.model.device)]
