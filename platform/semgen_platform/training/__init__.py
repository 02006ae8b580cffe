"""The training loop and what keeps it exact: sampling order, losses, checkpoints, metrics. Plain torch."""
