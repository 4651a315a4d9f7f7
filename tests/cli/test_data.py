"""`tidegate data`: new data is recorded whole or leaves no trace; a broken promise is exit code 3."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

Cli = Callable[..., Any]


@pytest.fixture
def root(cli: Cli, tmp_path: Path) -> Path:
    """A project around forty rows, committed, whose data comes from extract.py."""
    source = tmp_path / "sales.csv"
    rows(40).to_csv(source, index=False)
    root = tmp_path / "project"
    made = cli("init", root, "--from", source, "--target", "sold", env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    assert made.exit_code == 0, made.stderr
    config = (root / "tidegate.yaml").read_text()
    (root / "tidegate.yaml").write_text(
        config.replace("  target:", f"  command: {sys.executable} extract.py\n  target:")
    )
    commit(root)
    return root


def rows(count: int, **columns: object) -> pd.DataFrame:
    """Prices, cities, and whether it was sold."""
    frame = pd.DataFrame(
        {"price": range(count), "city": ["oslo", "rome"] * (count // 2), "sold": [0, 1] * (count // 2)}
    )
    return frame.assign(**columns)


def commit(root: Path) -> None:
    """Commit everything."""
    subprocess.run(["git", "-C", str(root), "add", "-A"], check=True)
    subprocess.run(["git", "-C", str(root), "commit", "-qm", "x"], check=True)


def extract(root: Path, code: str) -> None:
    """Write the script that data.command runs."""
    (root / "extract.py").write_text(code)


def test_refresh_records_what_the_command_wrote(cli: Cli, root: Path) -> None:
    """A new DVC version; the same again is no change."""
    extract(root, "import pathlib\np = pathlib.Path('data/sales.csv')\np.write_text(p.read_text() + '41,oslo,1\\n')\n")
    document = cli("-C", root, "data", "refresh", "--json").json
    assert (document["kind"], document["action"], document["changed"]) == ("data", "refresh", True)
    assert document["data"]["rows"] == 41
    assert cli("-C", root, "data", "status", "--json").json["state"] == "as recorded"
    extract(root, "")
    assert cli("-C", root, "data", "refresh", "--json").json["changed"] is False


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("open('data/sales.csv', 'w').write('price\\n1'); raise SystemExit(9)", "ended with exit code 9"),
        ("open('data/sales.csv', 'w')", "is empty"),
        ("import os; os.unlink('data/sales.csv')", "is missing"),
        ("open('data/sales.csv', 'w').write('a,a\\n1,2\\n')", "more than one column"),
    ],
)
def test_a_refresh_that_fails_leaves_the_old_data(cli: Cli, root: Path, code: str, message: str) -> None:
    """File, pointer and cache are as before."""
    before = (root / "data" / "sales.csv").read_bytes(), (root / "data" / "sales.csv.dvc").read_bytes()
    extract(root, code)
    result = cli("-C", root, "data", "refresh", "--json")
    assert result.exit_code in {1, 2}
    assert message in result.json["message"]
    assert ((root / "data" / "sales.csv").read_bytes(), (root / "data" / "sales.csv.dvc").read_bytes()) == before


def test_a_killed_refresh_is_undone_before_the_data_is_read(cli: Cli, cli_process: Cli, root: Path) -> None:
    """SIGKILL of tidegate while the command has half-written the file."""
    before = (root / "data" / "sales.csv").read_bytes()
    kill = f"os.kill(os.getppid(), {int(signal.SIGKILL)})"
    extract(root, f"import os\nopen('data/sales.csv', 'w').write('price\\n1')\n{kill}\n")
    assert cli_process("-C", root, "data", "refresh").exit_code == -9
    assert (root / "data" / "sales.csv").read_bytes() != before
    result = cli("-C", root, "data", "check")
    assert result.exit_code == 0, result.stderr
    assert "interrupted" in result.stderr
    assert (root / "data" / "sales.csv").read_bytes() == before


def test_a_project_without_a_command_is_told_the_two_ways(cli: Cli, root: Path) -> None:
    """Config error, exit code 2."""
    text = (root / "tidegate.yaml").read_text()
    (root / "tidegate.yaml").write_text("\n".join(line for line in text.splitlines() if "command:" not in line))
    result = cli("-C", root, "data", "refresh", "--json")
    assert result.exit_code == 2
    assert "tidegate data add FILE" in result.json["hint"]


def test_add_takes_a_file_and_refuses_what_is_none(cli: Cli, root: Path, tmp_path: Path) -> None:
    """A snapshot of the file becomes data.path."""
    rows(60).to_csv(tmp_path / "new.csv", index=False)
    before = (root / "data" / "sales.csv").read_bytes()
    (tmp_path / "broken.csv").write_text("a,b\n")
    for wrong, code in ((tmp_path / "none.csv", 2), (tmp_path / "broken.csv", 1), (tmp_path / "x.parquet", 2)):
        if wrong.suffix == ".parquet":
            rows(4).to_parquet(wrong)
        refused = cli("-C", root, "data", "add", wrong)
        assert refused.exit_code == code
        assert wrong.name in refused.stderr
        assert "data/sales.csv has" not in refused.stderr
        assert (root / "data" / "sales.csv").read_bytes() == before
    assert cli("-C", root, "data", "add", tmp_path / "new.csv", "--json").json["data"]["rows"] == 60


@pytest.mark.parametrize("lost", ["sold", "price", "city"])
def test_rows_without_a_column_that_the_config_names_are_not_recorded(
    cli: Cli, root: Path, tmp_path: Path, lost: str
) -> None:
    """Target, a dropped column, the split's: one error that names the file, and the data is as it was."""
    config = (root / "tidegate.yaml").read_text()
    config = config.replace("  target:", "  drop: [price]\n  target:").replace("by: random", "by: group, column: city")
    (root / "tidegate.yaml").write_text(config)
    kept = {name: (root / "data" / name).read_bytes() for name in ("sales.csv", "sales.csv.dvc")}
    rows(40).rename(columns={lost: lost.upper()}).to_csv(tmp_path / "new.csv", index=False)
    extract(root, f"import shutil; shutil.copy({str(tmp_path / 'new.csv')!r}, 'data/sales.csv')")
    for command, where in ((("add", tmp_path / "new.csv"), "new.csv"), (("refresh",), "extract.py` wrote")):
        result = cli("-C", root, "data", *command, "--json")
        assert result.exit_code == 2
        assert f"names the column {lost!r}, which " in result.json["message"]
        assert where in result.json["message"]
        assert result.json["hint"] == f"Did you mean {lost.upper()!r}?"
        assert {name: (root / "data" / name).read_bytes() for name in kept} == kept


def test_a_renamed_column_breaks_the_contract_with_exit_code_3(cli: Cli, root: Path, tmp_path: Path) -> None:
    """The JSON document and the reason; the suggestion names the new column."""
    rows(40).rename(columns={"price": "Price"}).to_csv(tmp_path / "new.csv", index=False)
    cli("-C", root, "data", "add", tmp_path / "new.csv")
    result = cli("-C", root, "data", "check", "--json")
    assert result.exit_code == 3
    assert result.json["kind"] == "contract"
    assert result.json["passed"] is False
    assert result.json["failed"] == ["price: the data has no such column. Did you mean 'Price'?"]


def test_a_typo_in_the_contract_is_exit_code_2(cli: Cli, root: Path) -> None:
    """With file and line."""
    (root / "contract.yaml").write_text("expectations:\n  - {type: expect_colum_to_exist, column: price}\n")
    result = cli("-C", root, "data", "check", "--json")
    assert result.exit_code == 2
    assert result.json["problems"][0].startswith("contract.yaml:2: expectations[0].type: unknown expectation")


def test_draft_prints_and_writes(cli: Cli, root: Path) -> None:
    """Printing leaves the file alone."""
    (root / "contract.yaml").write_text("# mine\n")
    text = cli("-C", root, "data", "draft", "--json").json["text"]
    assert (root / "contract.yaml").read_text() == "# mine\n"
    assert cli("-C", root, "data", "draft", "--write").exit_code == 0
    assert (root / "contract.yaml").read_text() == text


def test_data_comes_back_from_the_remote(cli: Cli, root: Path) -> None:
    """Push, lose everything local, pull; without a push there is one clear error."""
    assert cli("-C", root, "data", "push", "--json").json["objects"] >= 1
    before = (root / "data" / "sales.csv").read_bytes()
    (root / "data" / "sales.csv").unlink()
    shutil.rmtree(root / ".dvc" / "cache")
    lost = cli("-C", root, "data", "check")
    assert lost.exit_code == 2
    assert "tidegate data pull" in lost.stderr
    assert cli("-C", root, "data", "pull", "--json").json["objects"] == 1
    assert (root / "data" / "sales.csv").read_bytes() == before
    (root / "data" / "sales.csv").unlink()
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / ".tidegate" / "dvc-remote")
    gone = cli("-C", root, "data", "pull", "--json")
    assert gone.exit_code == 1
    assert "data/sales.csv" in gone.json["message"]


def test_pull_replaces_a_file_changed_by_hand_only_when_told_to(cli: Cli, root: Path) -> None:
    """The first answer names the file and the two ways on, and loses nothing."""
    data = root / "data" / "sales.csv"
    before = data.read_bytes()
    data.write_bytes(before.replace(b"rome", b"lima"))
    refused = cli("-C", root, "data", "pull", "--json")
    assert refused.exit_code == 1
    assert "kept nowhere else: data/sales.csv. Nothing was replaced." in refused.json["message"]
    assert "`tidegate data pull --force`" in refused.json["hint"]
    assert b"lima" in data.read_bytes()
    assert cli("-C", root, "data", "pull", "--force").exit_code == 0
    assert data.read_bytes() == before


def test_a_damaged_object_is_refused_and_not_left_in_place(cli: Cli, root: Path) -> None:
    """DVC hands it out in good faith; the next command must not take it for the recorded data."""
    data = root / "data" / "sales.csv"
    good = data.read_bytes()
    (stored,) = (one for one in (root / ".dvc" / "cache" / "files" / "md5").rglob("*") if one.is_file())
    stored.chmod(0o644)
    stored.write_bytes(good.replace(b"rome", b"lima"))
    stored.chmod(0o444)
    data.unlink()
    refused = cli("-C", root, "data", "pull", "--json")
    assert refused.exit_code == 1
    assert "does not have the content that DVC recorded" in refused.json["message"]
    assert not data.exists()
    assert "is missing" in cli("-C", root, "train").stderr


def test_a_second_push_has_nothing_to_do(cli: Cli, root: Path) -> None:
    """It says so."""
    assert cli("-C", root, "data", "push", "--json").json["objects"] == 1
    assert cli("-C", root, "data", "push", "--json").json["objects"] == 0


def test_diff_says_what_changed_in_each_column(cli: Cli, root: Path, tmp_path: Path) -> None:
    """Rows, kinds, means, categories, columns that came and went."""
    assert cli("-C", root, "data", "diff", "--json").json["changed"] is False
    config = (root / "tidegate.yaml").read_text()  # what was the target may go once it is none
    (root / "tidegate.yaml").write_text(config.replace("target: sold", "target: price"))
    new = rows(60, price=range(100, 160), region="north").drop(columns="sold").replace({"city": {"rome": "lima"}})
    new.to_csv(tmp_path / "new.csv", index=False)
    cli("-C", root, "data", "add", tmp_path / "new.csv")
    document = cli("-C", root, "data", "diff", "HEAD", "--json").json
    assert (document["before"]["rows"], document["after"]["rows"]) == (40, 60)
    assert {(one["column"], one["change"]) for one in document["columns"]} == {
        ("sold", "removed"), ("region", "added"), ("price", "mean"), ("city", "values"),
    }  # fmt: skip
    assert cli("-C", root, "data", "diff", "nowhere").exit_code == 2
