"""Training that is killed: tests/faults/kill_training.py has the long campaign."""

from signal import SIGKILL

from faults.kill_training import Campaign, Kill, differing


def test_a_run_that_is_killed_ends_as_one_that_is_not(tiny_checkpoint, tmp_path):
    campaign = Campaign(tmp_path, tiny_checkpoint, steps=12)
    campaign.undisturbed("whole")
    # SIGTERM: tests/test_checkpoints.py, test_sigterm_saves_and_exits_42.
    hits = list(campaign.kills("run", iter([Kill(SIGKILL, (0, 1), 0, step=4)]), most=1))
    assert len(hits) == 1 and all(hit.fine for hit in hits), hits
    assert differing(tmp_path / "run", tmp_path / "whole") == []
