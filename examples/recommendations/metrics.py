"""What the business counts: the margin of what readers bought, less what came back."""


def margin(frame):
    """One number for each reader; outcomes that never came are 0."""
    return 0.3 * frame["outcome.revenue"] - 0.05 * frame["outcome.refund"]


margin.higher_is_better = True
