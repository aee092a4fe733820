"""What a forked command has imported before it begins: see forked.py."""

import sys

# ace_jax does without torch. transformers imports it where it is installed, as for the tests.
sys.modules["torch"] = None

import ace_jax.evaluate  # noqa: E402
import ace_jax.train  # noqa: E402, F401
