import pytest

from ace_jax.errors import InputError
from ace_jax.training.schedule import Schedule, Stage


def test_stages_follow_each_other_by_epochs():
    schedule = Schedule.of(((1.0, 0.0, 2), (0.5, 1.0, 1)), steps_per_epoch=3)
    anchor, both = Stage(1.0, 0.0, 2), Stage(0.5, 1.0, 1)
    assert (schedule.epochs, schedule.steps) == (3, 9)
    assert [schedule.at(step) for step in range(9)] == (
        [(1, 1, anchor)] * 3 + [(2, 1, anchor)] * 3 + [(3, 2, both)] * 3
    )
    with pytest.raises(IndexError):
        schedule.at(9)


@pytest.mark.parametrize(
    "stages",
    [
        (),
        ((-1.0, 0.0, 1),),
        ((0.0, 0.0, 1),),
        ((1.0, 0.0, 1), (0.0, 1.0, 0)),
    ],
    ids=str,
)
def test_what_is_no_stage_is_refused(stages):
    with pytest.raises(InputError, match=r"objective\.stages: "):
        Schedule.of(stages, steps_per_epoch=3)
