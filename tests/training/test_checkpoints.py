"""Which checkpoint a training goes on from."""

import pytest
from broken import flip_bit, folder_of

from distill.base.errors import UserError
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


@pytest.mark.parametrize(
    ("files", "processes", "words"),
    [
        (["optimizer.pt", "rng_state.pth"], 1, None),
        (["optimizer.pt", "rng_state.pth"], 2, "written by 1 process, but 2 were started"),
        (["optimizer.pt", "rng_state_0.pth", "rng_state_1.pth"], 2, None),
        (["optimizer.pt", "rng_state_0.pth", "rng_state_1.pth"], 1, "written by 2 processes, but 1 was started"),
        (["optimizer_0/part", "rng_state_0.pth", "rng_state_1.pth"], 2, None),  # FSDP's
        (["global_step3/part", "rng_state_0.pth", "rng_state_1.pth"], 2, None),  # DeepSpeed's
        (["model.safetensors"], 1, "without the optimizer's state"),  # save_only_model
    ],
)
def test_training_would_go_on_otherwise_with_other_processes_or_without_an_optimizer(tmp_path, files, processes, words):
    checkpoints.refuse_other_processes(tmp_path / "absent", processes)
    partial = tmp_path / checkpoints.PARTIAL / "checkpoint-3"
    for name in files:
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_text("written")
    checkpoints.publish(tmp_path, 3, keep=2)
    if words is None:
        checkpoints.refuse_other_processes(tmp_path, processes)
    else:
        with pytest.raises(UserError, match=words):
            checkpoints.refuse_other_processes(tmp_path, processes)
    (tmp_path / "checkpoint-3" / files[0]).unlink()
    if words is None:  # damage is another matter
        checkpoints.refuse_other_processes(tmp_path, processes)
