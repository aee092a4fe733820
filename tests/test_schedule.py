import pytest

from ace_jax.recipe import Stage
from ace_jax.training.schedule import Schedule

SCHEDULE = Schedule((Stage(1.0, 0.0, 2), Stage(0.5, 1.0, 1)), steps_per_epoch=3)


def test_stages_follow_each_other_by_epochs():
    anchor, both = SCHEDULE.stages
    assert (SCHEDULE.epochs, SCHEDULE.steps) == (3, 9)
    assert [SCHEDULE.at(step) for step in range(9)] == (
        [(1, 1, anchor)] * 3 + [(2, 1, anchor)] * 3 + [(3, 2, both)] * 3
    )
    with pytest.raises(IndexError):
        SCHEDULE.at(9)


@pytest.mark.parametrize(
    ("last_step", "said"),
    [
        (9, None),
        (8, "max_steps 8 of 9 cuts stage 2 short"),
        (6, "max_steps 6 of 9 leaves out 1 whole stage(s): (alpha 0.5, beta 1)"),
        (
            2,
            "max_steps 2 of 9 cuts stage 1 short and leaves out 1 whole stage(s): "
            "(alpha 0.5, beta 1)",
        ),
    ],
)
def test_a_limit_says_which_stages_it_costs(last_step, said):
    assert SCHEDULE.cut_short(last_step) == said
