"""What mitigations have in common that change a model's predictions as they are made, and none of its weights.

Such a model answers as any causal language model of transformers does, logits (B, T, V) for ids (B, T), so that
`generate` and all metrics take it. It reads every text more than once for that, and anew at each token where the text
grows token by token: its cost comes with every token that it writes.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from distill.models.architecture import special_tokens


class DecodingTimeModel(PreTrainedModel, GenerationMixin):
    """A frozen model whose predictions are changed as they are made; a subclass says how, in `predictions`.

    Args:
        model: The model.
        tokenizer: Its (fast) tokenizer.
    """

    main_input_name = "input_ids"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True  # whatever its model was loaded with

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(copy.deepcopy(model.config))
        self.generation_config = copy.deepcopy(model.generation_config)  # its texts end where the model's do
        self.model = model
        self.tokenizer = tokenizer
        self.start = special_tokens(tokenizer)[0]
        self.eval()

    @property
    def base_model(self) -> nn.Module:
        """The model's own: its hidden states are not changed."""
        return self.model.base_model

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor | None]:
        """All tokens at every step: what was read of those before is not kept."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> CausalLMOutput:
        """Log-probabilities, (B, T, V), for ids (B, T) that are padded on either side."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows = [ids[keep].tolist() for ids, keep in zip(input_ids, mask.bool(), strict=True)]
        found = self.predictions(rows)
        logits = found.new_zeros(*input_ids.shape, found.shape[1])
        logits[mask.bool()] = found
        return CausalLMOutput(logits=logits)

    def predictions(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities at all N tokens of all rows, one row after another, (N, V)."""
        raise NotImplementedError

    def logits_of(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The model's own logits at all tokens of all rows, one row after another, (N, V) in fp32."""
        width = max(map(len, rows))
        device = self.model.device
        ids = torch.tensor([[*row, *[self.start] * (width - len(row))] for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        real = torch.arange(width, device=device) < lengths.unsqueeze(1)
        return self.model(input_ids=ids, attention_mask=real.long(), use_cache=False).logits[real].float()
