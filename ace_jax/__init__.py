"""ACE-Align in JAX: from survey answers to a PEFT adapter and a report."""

__version__ = "0.1.0"
