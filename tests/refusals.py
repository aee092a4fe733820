"""How an attempt on this program has to end."""

import resource

import pytest

from ace_jax.errors import InputError

MEMORY = 300 << 20  # what an attempt may cost this process at most


def refused_cheaply(read, message):
    """Checks that an attempt ends with one line, and that it was cheap."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=message) as error:
        read()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY
