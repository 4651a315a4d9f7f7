"""The road as public Python functions."""
