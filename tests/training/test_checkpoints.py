"""Which checkpoint a training goes on from."""

from broken import flip_bit, folder_of

from distill.base.integrity import MANIFEST
from distill.training import checkpoints


def test_the_newest_whole_checkpoint_is_taken_and_damaged_ones_are_named_and_kept(tmp_path, capsys):
    def save(step):
        folder_of(tmp_path / checkpoints.PARTIAL / f"checkpoint-{step}", weights=f"weights {step}")
        checkpoints.publish(tmp_path, step, keep=2)

    def steps():
        return sorted(int(p.name.split("-")[1]) for p in tmp_path.glob("checkpoint-*"))

    assert checkpoints.newest_whole(tmp_path) is None
    for step in (5, 10, 100):
        save(step)
    assert steps() == [10, 100]
    assert checkpoints.newest_whole(tmp_path) == tmp_path / "checkpoint-100"
    flip_bit(tmp_path / "checkpoint-100" / "weights")
    folder_of(tmp_path / "checkpoint-105", weights="no manifest")
    folder_of(tmp_path / checkpoints.PARTIAL / "checkpoint-110", weights="a kill came")
    assert checkpoints.newest_whole(tmp_path) == tmp_path / "checkpoint-10"
    said = capsys.readouterr().err
    assert "checkpoint-100: weights is not what was written" in said
    assert f"checkpoint-105: {MANIFEST} is missing" in said
    assert steps() == [10, 100, 105]
    # Rotation counts only what is older than the new one, so that damaged newer ones cannot push it out.
    checkpoints.clear_partial(tmp_path)
    for step in (15, 20):
        save(step)
        assert checkpoints.newest_whole(tmp_path) == tmp_path / f"checkpoint-{step}"
    assert steps() == [15, 20, 100, 105]
    save(100)
    assert checkpoints.newest_whole(tmp_path) == tmp_path / "checkpoint-100"
