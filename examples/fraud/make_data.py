"""Writes data/orders.csv: made-up orders of a shop, and which of them turned out to be fraud weeks later."""

import csv
import math
import random
from pathlib import Path

ROWS, SEED = 20000, 1
COUNTRIES = ["NZ", "AU", "US", "DE"]

draw = random.Random(SEED)
Path("data").mkdir(exist_ok=True)
with Path("data/orders.csv").open("w", newline="", encoding="utf-8") as file:
    out = csv.writer(file)
    out.writerow(["amount", "items", "hour", "country", "card_country", "account_days", "fraud"])
    for _ in range(ROWS):
        amount, items, hour = round(draw.lognormvariate(4, 1), 2), draw.randint(1, 9), draw.randint(0, 23)
        country = draw.choice(COUNTRIES)
        card = country if draw.random() < 0.92 else draw.choice(COUNTRIES)
        days = int(draw.expovariate(1 / 300))
        odd = (card != country) * 3.2 + (hour < 6) * 1.2 + (days < 7) * 2.4 + 0.6 * math.log(amount / 55)
        out.writerow([amount, items, hour, country, card, days, int(draw.random() < 1 / (1 + math.exp(4.6 - odd)))])
