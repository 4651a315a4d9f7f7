"""Who executes a flow: one file for each place it can run."""
