"""Write the table of docs/drift.md: false alarms and found moves of every shape of column at every size.

python docs/make_drift_table.py            # a quarter of an hour
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from simulation.drifting import KINDS, alarms  # noqa: E402 - from the tests, which promise the same

SIZES = (500, 5_000, 50_000, 500_000)
SAME, MOVED = 200, 50
BEGIN, END = "<!-- the table of make_drift_table.py -->", "<!-- end of the table -->"


def table() -> str:
    """One row for each shape; in each cell the alarms of all sizes, smallest first."""
    found = {
        shift: [alarms(rows, draws, shift) for rows in SIZES]
        for shift, draws in ((0.0, SAME), (0.02, MOVED), (0.5, MOVED))
    }
    head = (
        f"| column | the same, of {SAME} | moved by 0.02, of {MOVED} | moved by 0.5, of {MOVED} |\n|---|---|---|---|\n"
    )
    lines = []
    for name in KINDS:
        cells = [", ".join(str(one.columns[name]) for one in sizes) for sizes in found.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |\n")
    return head + "".join(lines)


def main() -> None:
    """Replace the table in the page."""
    page = ROOT / "docs" / "drift.md"
    marked = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    made = f"{BEGIN}\n{table()}{END}"
    text = page.read_text(encoding="utf-8")
    page.write_text(marked.sub(lambda _: made, text), encoding="utf-8")


if __name__ == "__main__":
    main()
