"""Writes data/reviews.csv: made-up reviews of a shop, with the words that people use when they are pleased or not."""

import csv
import random
from pathlib import Path

GOOD = ["arrived early", "works as described", "great value", "would buy again", "soft and warm", "helpful support"]
BAD = ["arrived broken", "stopped working", "waste of money", "never again", "thin and scratchy", "nobody answers"]
NEUTRAL = ["ordered in blue", "a gift for my sister", "second one I have", "size M", "bought on sale", "in a brown box"]
ROWS, SEED = 4000, 1

draw = random.Random(SEED)
Path("data").mkdir(exist_ok=True)
with Path("data/reviews.csv").open("w", newline="", encoding="utf-8") as file:
    out = csv.writer(file)
    out.writerow(["text", "channel", "pleased"])
    for _ in range(ROWS):
        pleased = draw.random() < 0.6
        # One review in ten says the opposite of how it is meant.
        words = GOOD if pleased != (draw.random() < 0.1) else BAD
        said = [*draw.sample(words, draw.randint(1, 3)), *draw.sample(NEUTRAL, draw.randint(1, 3))]
        draw.shuffle(said)
        out.writerow([", ".join(said), draw.choice(["web", "app"]), int(pleased)])
