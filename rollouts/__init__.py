"""Who gets which version, and when we believe it. Unaware of monitors."""
