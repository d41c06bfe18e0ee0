"""What a training step's metrics say of its rollouts."""
