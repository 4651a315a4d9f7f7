"""Gradient-boosted trees on the six market columns."""

from sklearn.ensemble import HistGradientBoostingClassifier


def train(X, y, params):
    """Fit on half hours; ONNX computes with float32, so the model learns from the same numbers."""
    return HistGradientBoostingClassifier(random_state=0, **params).fit(X.astype("float32"), y)
