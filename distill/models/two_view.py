"""The two-view teacher: a model that answers with the distribution its students are trained on.

Its prediction for a text is the target of `logit_ops.teacher_target`: the teacher's own prediction combined with the
one it makes for the counterfactual of that text. Nothing is trained, and every prediction costs the teacher a second
pass and the search for listed words: it is the bound that students chase, not a model to run.

It answers as any causal language model of transformers does, logits (B, T, V) for ids (B, T), so that `generate` and
all metrics take it. Where a text grows token by token (sampling), its counterfactual is made anew at each token, from
what is there so far.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.models.architecture import own_context
from distill.models.decoding_time import DecodingTimeModel
from distill.objective.logit_ops import RoleMap, teacher_target
from distill.recipe import TargetConfig
from distill.text.alignment import NO_BOUNDARY, NO_PARTNER, encode_marked, mask_inside, partner_positions
from distill.text.counterfactual import Swapper


class TwoViewTeacher(DecodingTimeModel):
    """A frozen teacher that decodes from the target distribution.

    Args:
        teacher: The teacher.
        tokenizer: Its (fast) tokenizer.
        swapper: Makes the counterfactuals.
        target: Operation, strength and role reversal; `augment` plays no part.
        role_maps: K - 1 maps that undo each shift; used if `target.reverse_roles`.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        swapper: Swapper,
        target: TargetConfig,
        role_maps: Sequence[RoleMap],
    ) -> None:
        super().__init__(teacher, tokenizer)
        self.swapper = swapper
        self.target = target
        self.role_maps = list(role_maps) if target.reverse_roles else None

    def predictions(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """As there: log-probabilities of the target, (N, V)."""
        others, partners = self._views(rows)
        logits = self.logits_of([*rows, *others])
        own = logits[: sum(map(len, rows))]
        partner = torch.from_numpy(partners).to(own.device)
        return teacher_target(
            own,
            logits[partner.clamp(min=0)],
            partner >= 0,
            self.target.op,
            self.target.strength,
            self.role_maps,
        )

    def _views(self, rows: Sequence[Sequence[int]]) -> tuple[list[list[int]], np.ndarray]:
        """The counterfactual rows of those that have any, and where each token finds its partners.

        Returns:
            Token ids of the counterfactuals, and (K - 1, N) int64: indices into the tokens of all rows, those of the
            counterfactuals behind the N of the texts; -1 where there is no partner. A text without listed words is its
            own counterfactual.
        """
        shifts = self.swapper.wordlist.num_groups - 1
        total = sum(map(len, rows))
        others: list[list[int]] = []
        partners = []
        begin, behind = 0, total
        for row in rows:
            views = self._aligned(list(row))
            if views is None:
                partners.append(np.tile(np.arange(begin, begin + len(row)), (shifts, 1)))
            else:
                ids, found = views
                offsets = behind + np.cumsum([0, *map(len, ids[:-1])])
                partners.append(np.where(found >= 0, found + offsets[:, None], NO_PARTNER))
                others += ids
                behind += sum(map(len, ids))
            begin += len(row)
        return others, np.concatenate(partners, axis=1)

    def _aligned(self, ids: list[int]) -> tuple[list[list[int]], np.ndarray] | None:
        """Counterfactuals of a row, and (K - 1, T) the aligned position in each, -1 for none; None without an edit."""
        start = [self.start] if ids[:1] == [self.start] else []
        ids = ids[len(start) :]
        text = self._text(ids)
        counterfactuals = self.swapper.counterfactuals(text)
        if not any(c.spans for c in counterfactuals):
            return None
        tokens, boundaries, _ = encode_marked(text, self.tokenizer, counterfactuals, ())
        if tokens[0].tolist() != ids:  # sampled tokens need not be those that the tokenizer would choose
            boundaries[0] = mask_inside(self._ends(ids, text), counterfactuals[0].spans)
        limit = own_context(self.config)
        others = [[*start, *view.tolist()][:limit] for view in tokens[1:]]
        # The start token stands at the boundary before the text, in all views.
        width = max(len(start) + len(bounds) for bounds in boundaries)
        table = np.full((len(boundaries), width), NO_BOUNDARY, dtype=np.int64)
        for view, bounds in zip(table, boundaries, strict=True):
            view[: len(start)] = 0
            view[len(start) : len(start) + len(bounds)] = bounds
        partner = partner_positions(table)[0, :, : len(start) + len(ids)]
        lengths = np.array([len(other) for other in others])[:, None]
        return others, np.where(partner < lengths, partner, NO_PARTNER)

    def _text(self, ids: list[int]) -> str:
        # With special tokens: within a chat template, the counterfactual is asked within it, too.
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _ends(self, ids: list[int], text: str) -> np.ndarray:
        """The character of the text at which each token ends, (T,); -1 for one that ends inside a character."""
        ends = np.full(len(ids), NO_BOUNDARY, dtype=np.int64)
        for position in range(len(ids)):
            before = self._text(ids[: position + 1])
            if text.startswith(before):
                ends[position] = len(before)
        # A later token that adds nothing takes the boundary over.
        repeated = ends[:-1] == ends[1:]
        ends[:-1][repeated] = NO_BOUNDARY
        return ends
