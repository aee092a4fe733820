"""Training: state, one step, the input pipeline, checkpoints and metrics."""
