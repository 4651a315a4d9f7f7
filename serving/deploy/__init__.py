"""Where revisions run: one file for each kind of environment."""
