"""What a model answered."""

import numpy as np
import pytest

from ace_jax.errors import InputError
from ace_jax.runtime.saved_answers import Progress


@pytest.mark.parametrize("part", ["p", "option_mass"])
def test_answers_that_are_not_numbers_are_refused(part):
    answered = Progress.empty(2, 3)
    getattr(answered, part)[1] = np.nan
    with pytest.raises(InputError, match="answers are not numbers; check the weights"):
        answered.by_name({})
