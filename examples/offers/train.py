"""Boosted trees on what a visit has shown so far."""

from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder


def train(X, y, params):
    """Fit on visits: X has one row for each, y is 1 where the visitor bought."""
    source = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["source"]), remainder="passthrough")
    return make_pipeline(source, GradientBoostingClassifier(random_state=0, **params)).fit(X, y)
