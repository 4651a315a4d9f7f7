"""Boosted trees by XGBoost; they are served as ONNX, compared with XGBoost's own answers first."""

from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from xgboost import XGBClassifier


def train(X, y, params):
    """Fit on orders: X has one row for each, y is 1 for a fraud."""
    countries = OneHotEncoder(handle_unknown="ignore")
    columns = make_column_transformer((countries, ["country", "card_country"]), remainder="passthrough")
    return make_pipeline(columns, XGBClassifier(random_state=0, n_jobs=2, **params)).fit(X, y)
