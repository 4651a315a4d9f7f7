"""Rollouts of made-up traffic: how often a policy is wrong, how fast it is, and what other rules would have done.

`scenario` says what happens, `traffic` draws it, `ours` and `peers` decide, `run` closes the loop and counts.
"""
