"""Training that is killed: tests/faults/kill_training.py has the long campaign."""

from signal import SIGKILL, SIGTERM

from faults.kill_training import Campaign, Kill, differing


def test_a_run_that_is_killed_ends_as_one_that_is_not(tiny_checkpoint, tmp_path):
    campaign = Campaign(tmp_path, tiny_checkpoint, steps=16)
    campaign.undisturbed("whole")
    draws = iter([Kill(SIGKILL, (0, 1), 0, step=4), Kill(SIGTERM, (1,), 0, step=6)])
    hits = list(campaign.kills("run", draws, most=2))
    assert len(hits) == 2 and all(hit.fine for hit in hits), hits
    assert differing(tmp_path / "run", tmp_path / "whole") == []
