"""Who moves the traffic of a rollout: one file for each kind of environment."""
