"""Compiles training and scoring for devices that need not be present, and reports the cost."""
