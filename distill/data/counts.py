"""What packing saw, for the log and the report."""

from dataclasses import dataclass


@dataclass
class PackingCounts:
    """Its numbers, which can be added up."""

    documents: int = 0
    edited_documents: int = 0
    pieces: int = 0
    dropped_pieces: int = 0
    tokens: int = 0
    aligned_positions: int = 0
    positions_with_views: int = 0
    edits: int = 0
    skipped_sentences: int = 0
    skipped_documents: int = 0
    words_in_no_prose: int = 0
    blocks: int = 0
    edited_blocks: int = 0
    cut_conversations: int = 0  # longer than a block: their later pieces do not see the earlier ones
    held_out_documents: int = 0  # that are held-out text too, see overlap.py

    def __add__(self, other: "PackingCounts") -> "PackingCounts":
        return PackingCounts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def aligned_share(self) -> float | None:
        """Share of the positions of edited documents that have a partner in every other view."""
        return self.aligned_positions / self.positions_with_views if self.positions_with_views else None

    def summary(self) -> str:
        """One line for the log."""
        line = f"{self.documents} documents, {self.tokens} tokens in {self.blocks} blocks"
        if self.aligned_share is not None:
            line += f"; {self.edited_documents} documents edited, {self.aligned_share:.1%} of their positions aligned"
        if self.skipped_sentences:
            line += f"; {self.skipped_sentences} sentences left alone"
            line += f", with their {self.skipped_documents} documents" if self.skipped_documents else ""
        if self.words_in_no_prose:
            line += f"; {self.words_in_no_prose} words in links, tags or code left alone"
        if self.cut_conversations:
            line += f"; {self.cut_conversations} conversations are longer than a block, and cut"
        if self.held_out_documents:
            line += f"; {self.held_out_documents} documents are held-out text too"
        return line + (f"; {self.dropped_pieces} pieces dropped" if self.dropped_pieces else "")

    def cost_of_rows(self, block_length: int) -> str:
        """What it costs that each document has a row of its own, for the log; there must be a block."""
        room = self.blocks * block_length
        return (
            f"{1 - self.tokens / room:.0%} of the {room} positions are empty, and training takes up to "
            f"{room / self.tokens:.1f} times as long as with full rows; a shorter block_length helps"
        )
