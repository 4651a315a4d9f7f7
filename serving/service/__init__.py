"""What runs inside a model's process; needs only the `serve` extra."""
