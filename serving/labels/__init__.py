"""What became of predictions: labels (the truth) and outcomes (what users did), stored once and joined when asked.

`rows.py` checks one line, `files.py` reads a file of them, `stored.py` keeps them, `join.py` gives each prediction its
truth, `maturity.py` says how long truth takes to come.

A label names a prediction by its own id or by the caller's id of the request (`serve.id`), and may come before the
prediction is recorded, late, twice, or be corrected: all of it is kept, and the newest counts.
"""

from __future__ import annotations

from tidegate.serving.labels.join import answered, joined, outcomes, truths
from tidegate.serving.labels.maturity import Maturity, maturity
from tidegate.serving.labels.rows import Rejected
from tidegate.serving.labels.stored import Ingested, ingest_labels, ingest_outcomes

__all__ = [
    "Ingested",
    "Maturity",
    "Rejected",
    "answered",
    "ingest_labels",
    "ingest_outcomes",
    "joined",
    "maturity",
    "outcomes",
    "truths",
]
