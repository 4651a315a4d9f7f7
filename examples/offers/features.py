"""What callers see: the shop asks whether to show an offer, not for a class."""


def respond(predictions):
    """An offer for visitors who would not buy without one; predictions are 0 or 1, one for each row."""
    return ["none" if bought else "offer" for bought in predictions]
