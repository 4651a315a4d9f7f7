"""Writes data/visits.csv: made-up visits to a shop, and whether the visitor bought within half an hour."""

import csv
import math
import random
from pathlib import Path

ROWS, SEED = 8000, 1
LEANING = {"search": 0.2, "ad": -0.4, "direct": 0.3}

draw = random.Random(SEED)
Path("data").mkdir(exist_ok=True)
with Path("data/visits.csv").open("w", newline="", encoding="utf-8") as file:
    out = csv.writer(file)
    out.writerow(["pages", "minutes", "returning", "source", "basket", "bought"])
    for _ in range(ROWS):
        pages, minutes = draw.randint(1, 25), round(draw.expovariate(1 / 6), 2)
        returning, source = int(draw.random() < 0.35), draw.choice(list(LEANING))
        basket = round(draw.lognormvariate(3, 0.8), 2) if draw.random() < 0.4 else 0.0
        wish = -3.2 + 0.08 * pages + 0.9 * returning + 0.03 * basket + LEANING[source]
        out.writerow([pages, minutes, returning, source, basket, int(draw.random() < 1 / (1 + math.exp(-wish)))])
