"""`python -m tidegate.cli`, for where the console script is not on PATH."""

from tidegate.cli.main import main

main()
