"""A few of what `tests.faults` tries by the hundred."""

from faults.bit_flips import EQUAL, LOG, NOTICED, campaign


def test_a_flipped_bit_is_noticed_or_changes_no_result(tmp_path):
    found = [(what, kind) for name, kind, what in campaign(70, 1, tmp_path) if name != LOG]
    assert len(found) == 60
    assert not [each for each in found if each[1] not in (NOTICED, EQUAL)]
