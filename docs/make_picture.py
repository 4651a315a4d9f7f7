"""Draws docs/images/demo.svg from a real run of `tidegate demo`, without its progress lines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

_WIDTH = 118
_TARGET = Path(__file__).parent / "images" / "demo.svg"
# The fonts that rich's template would fetch from elsewhere; the reader's own monospace font does.
_FONTS = re.compile(r"@font-face\s*\{.*?\}\s*", re.DOTALL)


def main() -> None:
    """Run the demo and draw what it said."""
    command = [sys.executable, "-m", "tidegate.cli", "demo"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout)
    told = [line for line in done.stdout.splitlines() if not _is_progress(line)]
    console = Console(record=True, width=_WIDTH, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    console.print(Text("$ make demo", style="bold green"))
    for line in told:
        console.print(
            Text(line, style="bold" if re.match(r"\d  |\s*What happened|Why version|One prediction", line) else "")
        )
    _TARGET.write_text(_FONTS.sub("", console.export_svg(title="tidegate")), encoding="utf-8")


def _is_progress(line: str) -> bool:
    return line.endswith("...") or bool(re.match(r"(rollout o-|measure how|wrote |stage |note )", line))


if __name__ == "__main__":
    main()
