"""Compiles the training step for devices that need not be present, and reports the cost."""
