"""The road itself: steps, flows, runners; the only place that picks an environment."""
