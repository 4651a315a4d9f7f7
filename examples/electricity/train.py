"""Gradient-boosted trees on the six market columns."""

from sklearn.ensemble import HistGradientBoostingClassifier


def train(X, y, params):
    """Fit on half hours: X has one row and y one label for each; params are train.params of tidegate.yaml."""
    return HistGradientBoostingClassifier(random_state=0, **params).fit(X, y)
