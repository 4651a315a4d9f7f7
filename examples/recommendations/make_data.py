"""Writes data/impressions.csv: made-up impressions of articles, and whether the reader clicked."""

import csv
import math
import random
from pathlib import Path

TOPICS = ["sports", "science", "food", "travel"]
ROWS, SEED = 8000, 1

draw = random.Random(SEED)
Path("data").mkdir(exist_ok=True)
with Path("data/impressions.csv").open("w", newline="", encoding="utf-8") as file:
    out = csv.writer(file)
    out.writerow(["reader_topic", "article_topic", "age_hours", "position", "margin", "clicked"])
    for _ in range(ROWS):
        reader, article = draw.choice(TOPICS), draw.choice(TOPICS)
        age, position = round(draw.expovariate(1 / 20), 1), draw.randint(1, 10)
        margin = round(draw.uniform(0.05, 0.6), 2)
        wish = -1.2 + 1.6 * (reader == article) - 0.02 * age - 0.12 * position
        row = [reader, article, age, position, margin, int(draw.random() < 1 / (1 + math.exp(-wish)))]
        out.writerow(row)
