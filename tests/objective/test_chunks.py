"""Chunks of a batch: no token is lost or met twice, each looks at what it is compared with, and all have room."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.objective.chunks import IGNORED, ChunkSizes, Positions, chunk_sizes, plan_chunks
from distill.objective.settings import LossSettings


@st.composite
def batches(draw):
    """Positions of up to 40 tokens with up to 3 counterfactuals, some tokens that do not count, and sizes of chunks."""
    n, counterfactuals = draw(st.integers(0, 40)), draw(st.integers(0, 3))
    rows = st.integers(0, 60)
    labels = draw(st.lists(st.sampled_from([IGNORED, 1, 2]), min_size=n, max_size=n))
    own = draw(st.lists(rows, min_size=n, max_size=n))
    partner = [draw(st.lists(rows | st.just(-1), min_size=n, max_size=n)) for _ in range(counterfactuals)]
    sizes = ChunkSizes(draw(st.integers(1, 30)), draw(st.integers(1, 10)), draw(st.booleans()))
    whole = torch.tensor(partner, dtype=torch.long).view(counterfactuals, n)
    return Positions(torch.tensor(labels, dtype=torch.long), torch.tensor(own, dtype=torch.long), whole), sizes


@given(batches())
def test_every_token_that_counts_is_in_one_block_with_the_rows_that_it_is_compared_with(batch):
    positions, sizes = batch
    plan = plan_chunks(positions, LossSettings(op="expmean"), sizes)
    met = torch.cat([chunk.tokens for chunk in plan.chunks]) if plan.chunks else torch.zeros(0, dtype=torch.long)
    assert sorted(met.tolist()) == (positions.labels != IGNORED).nonzero().flatten().tolist()
    for chunk in plan.chunks:
        assert torch.equal(chunk.teacher[chunk.own], positions.own[chunk.tokens])
        assert len(chunk.teacher.unique()) == len(chunk.teacher)
        ends = [0, *(block.end for block in chunk.blocks)]
        assert [block.start for block in chunk.blocks] == ends[:-1] and ends[-1] == len(chunk.tokens)
        for block in chunk.blocks:
            assert 0 < block.end - block.start <= sizes.block
            for k, partners in enumerate(positions.partner[:, chunk.tokens[block.start : block.end]]):
                assert ((partners >= 0) == (k in block.counterfactuals)).all()
                if k in block.counterfactuals:
                    assert torch.equal(chunk.teacher[chunk.partner[k, block.start : block.end]], partners)


@given(batches())
def test_chunks_have_room_for_the_logits_of_all_views_and_are_of_one_size_where_asked(batch):
    positions, sizes = batch
    lengths = [len(chunk.tokens) for chunk in plan_chunks(positions, LossSettings(op="expmean"), sizes).chunks]
    views = 2 + len(positions.partner)  # of the student, of its own text, of each counterfactual
    assert all(length * views <= max(views, 2 * sizes.chunk) for length in lengths)
    if sizes.even and lengths:
        number = -(-sum(lengths) // max(1, 2 * sizes.chunk // views))  # as few as there can be
        assert len(lengths) <= number and max(lengths) == -(-sum(lengths) // number)


@given(batches())
def test_what_the_settings_do_not_ask_for_is_not_planned_for(batch):
    positions, sizes = batch
    for settings, with_own in ((LossSettings(0.0, 1.0), False), (LossSettings(op="none"), True)):
        for chunk in plan_chunks(positions, settings, sizes).chunks:
            assert len(chunk.partner) == 0 and all(block.counterfactuals == () for block in chunk.blocks)
            looked_at = positions.own[chunk.tokens] if with_own else torch.zeros_like(chunk.tokens)
            assert torch.equal(chunk.teacher[chunk.own], looked_at)


def test_the_logits_of_a_chunk_on_a_gpu_have_a_bound_in_bytes():
    gpu = torch.device("cuda")
    for vocab, dtype in ((50257, torch.bfloat16), (50257, torch.float32), (262144, torch.bfloat16)):
        chunk, block, even = chunk_sizes(LossSettings(), gpu, vocab, dtype)
        assert 1.1 * 2**30 < 2 * chunk * vocab * dtype.itemsize <= 1.25 * 2**30 and chunk % 64 == 0 and block > chunk
        assert even
    assert chunk_sizes(LossSettings(chunk_tokens=7), gpu, 50257, torch.float32).chunk == 7
