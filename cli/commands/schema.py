"""`tidegate schema`: what editors need to complete and check tidegate.yaml."""

from __future__ import annotations

from tidegate.cli.terminal import terminal, to_json


def schema() -> None:
    """Print the JSON schema of tidegate.yaml.

    Save it and name it in the first line of the file, and editors complete and check as you type:
    # yaml-language-server: $schema=tidegate.schema.json
    """
    from tidegate.core import config

    document = config.schema()
    # With --json every document has a kind; JSON schema ignores keywords that it does not know.
    terminal().show(
        {"kind": "schema", **document}, lambda console: console.print(to_json(document, indent=2), markup=False)
    )
