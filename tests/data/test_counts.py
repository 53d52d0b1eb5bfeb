"""What packing saw: sums, shares, and the line that the log gets."""

from distill.data.counts import PackingCounts


def test_counts_add_up_and_nothing_aligned_is_no_share():
    one = PackingCounts(documents=1, tokens=5, aligned_positions=2, positions_with_views=4, blocks=1)
    other = PackingCounts(documents=2, tokens=7, aligned_positions=1, positions_with_views=8, edits=3)
    both = one + other
    assert (both.documents, both.tokens, both.edits, both.blocks) == (3, 12, 3, 1)
    assert both.aligned_share == 3 / 12
    assert PackingCounts().aligned_share is None


def test_the_line_of_the_log_says_only_what_there_is():
    assert PackingCounts(documents=3, tokens=40, blocks=2).summary() == "3 documents, 40 tokens in 2 blocks"
    counts = PackingCounts(documents=3, edited_documents=1, tokens=40, aligned_positions=9, positions_with_views=10)
    counts += PackingCounts(skipped_sentences=4, dropped_pieces=5, blocks=2)
    assert counts.summary() == (
        "3 documents, 40 tokens in 2 blocks; 1 documents edited, 90.0% of their positions aligned; "
        "4 sentences left alone; 5 pieces dropped"
    )
