"""Pure types, config, errors and the store; no other folder of ours is below it."""
