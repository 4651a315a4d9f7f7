"""How likely a reader is to click an article; the page shows the likeliest."""

from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder


def train(X, y, params):
    """Fit on impressions: X has one row for each, y is 1 where the reader clicked."""
    topics = OneHotEncoder(handle_unknown="ignore")
    columns = make_column_transformer((topics, ["reader_topic", "article_topic"]), remainder="passthrough")
    return make_pipeline(columns, RandomForestClassifier(random_state=0, **params)).fit(X, y)
