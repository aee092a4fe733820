"""ACE-Align in JAX: from survey answers to a PEFT adapter and a report."""

import os

# transformers is here for tokenizers; that PyTorch is missing is no news to the user.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

__version__ = "0.1.0"
