"""Writes data/diabetes.csv: 442 patients of the diabetes data set inside scikit-learn, in units that people know."""

from pathlib import Path

from sklearn.datasets import load_diabetes

frame = load_diabetes(as_frame=True, scaled=False).frame
Path("data").mkdir(exist_ok=True)
frame.rename(columns={"target": "progression"}).to_csv("data/diabetes.csv", index=False)
