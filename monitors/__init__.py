"""Does the world still look like the training data? Unaware of rollouts."""
