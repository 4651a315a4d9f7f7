"""tidegate.yaml: what is read, and what is said about every mistake."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tidegate.core.config import Config, Rollout, load, load_section, resolved, schema
from tidegate.core.config_types import Section
from tidegate.core.errors import ConfigError, UsageError

SMALLEST = "model: demand\ndata: {path: data/train.csv, target: class}\n"
WHOLE = (Path(__file__).parent / "whole.yaml").read_text()


def write(folder: Path, text: str) -> Path:
    (folder / "tidegate.yaml").write_text(textwrap.dedent(text))
    return folder


def problems(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text))
    return caught.value.problems


def problem(folder: Path, addition: str) -> str:
    """The one problem that an addition to the smallest file makes."""
    found = problems(folder, SMALLEST + textwrap.dedent(addition))
    assert len(found) == 1, found
    return found[0]


def test_two_keys_are_enough_and_the_rest_has_defaults(tmp_path: Path) -> None:
    """The defaults are the documented ones."""
    config = load(write(tmp_path, SMALLEST))
    assert (config.train.entrypoint, config.gate.tolerance, config.gate.latency_p99) == ("train.py:train", 0.005, 0.05)
    assert config.serve.max_body == 1_000_000
    assert config.rollout.steps == "auto"
    assert config.rollout.step.max == "auto"
    assert [guardrail.metric for guardrail in config.rollout.guardrails] == ["error_rate", "latency"]
    assert config.advanced.block == 60.0


def test_the_whole_surface_is_read(tmp_path: Path) -> None:
    """Every documented key is known, in every section."""
    config = load(write(tmp_path, WHOLE))
    assert config.retrain.on == ("drift", "quality")
    assert config.train.resources.memory == 8 * 2**30
    assert config.environments["prod"].hostname == "demand.acme.dev"
    document = yaml.safe_load(WHOLE.replace(" on:", ' "on":'))
    assert_same_keys(document, resolved(config))


def assert_same_keys(written: Any, known: Any) -> None:
    if isinstance(written, dict) and isinstance(known, dict):
        for key, value in written.items():
            assert key in known
            assert_same_keys(value, known[key])


def test_what_was_resolved_can_be_loaded_again_and_is_equal(tmp_path: Path) -> None:
    """A release stores the resolved config, so nothing may be lost on the way."""
    config = load(write(tmp_path, WHOLE))
    document = json.loads(json.dumps(resolved(config)))
    assert document["rollout"]["step"]["min"] == "2m"
    assert document["gate"]["size"] == "200MB"
    assert load(write(tmp_path, yaml.safe_dump(document))) == config


def test_a_config_cannot_be_changed_after_it_was_read(tmp_path: Path) -> None:
    """Frozen, so that all parts of one command see the same."""
    config = load(write(tmp_path, SMALLEST))
    with pytest.raises(ValueError, match="frozen"):
        config.rollout.alpha = 0.1  # type: ignore[misc]


def test_every_mistake_is_reported_at_once_with_line_and_path(tmp_path: Path) -> None:
    """One run of the command shows all there is to repair, in the order of the file."""
    found = problems(
        tmp_path,
        """\
        model: my model
        data: {path: /data.csv, drop: [1]}
        rollout:
          step:
            mim: 2m
          alpha: 0.7
          steps: [50, 5]
        serve: {timeout: 5}
        monitr: {}
        """,
    )
    assert [line.split(": ")[0] + " " + line.split(": ")[1] for line in found] == [
        "tidegate.yaml:1 model",
        "tidegate.yaml:2 data.path",
        "tidegate.yaml:2 data.target",
        "tidegate.yaml:2 data.drop[0]",
        "tidegate.yaml:5 rollout.step.mim",
        "tidegate.yaml:6 rollout.alpha",
        "tidegate.yaml:7 rollout.steps",
        "tidegate.yaml:8 serve.timeout",
        "tidegate.yaml:9 monitr",
    ]
    assert found[4] == 'tidegate.yaml:5: rollout.step.mim: unknown key, did you mean "min"?'


def test_rules_are_checked_beside_an_unknown_key(tmp_path: Path) -> None:
    """A typo does not hide that the same section contradicts itself."""
    found = problems(tmp_path, SMALLEST + "train: {command: a, stage: b, parms: {}}\n")
    assert any('did you mean "params"' in line for line in found)
    assert any("exactly one of entrypoint, command, stage" in line for line in found)


@pytest.mark.parametrize(
    ("addition", "said"),
    [
        ("train: {command: a.py, entrypoint: 'a.py:b'}", "exactly one of entrypoint, command, stage"),
        ("train: {entrypoint: train}", "should be file.py:function"),
        ("rollout: {steps: [5, 5]}", "steps must grow"),
        ("rollout: {steps: [0, 5]}", "whole per cent from 1 to 100, not 0"),
        ("rollout: {steps: [2.5]}", "whole per cent"),
        ("rollout: {steps: []}", "should be auto or a list"),
        ("rollout: {alpha: 0}", "greater than 0"),
        ("rollout: {beta: 0.5}", "less than 0.5"),
        ("rollout: {guardrails: []}", "should not be empty"),
        ("rollout: {step: {min: 5m, max: 1m}}", "should be at least step.min"),
        ("rollout: {mode: tset}", 'did you mean "test"?'),
        ("rollout: {unit: request}", "the gateway assigns users"),
        ("data: {path: a.csv, target: b}", "is written twice (first in line 2)"),
        ("serve: {auth: {api_keys: hunter2}}", "a secret is only ever a reference"),
        ("notify: [{on: [drift], webhook: 'https://hooks.example.org/secret'}]", "a secret is only ever a reference"),
        ("notify: [{on: [drfit], webhook: env:A}]", 'did you mean "drift"?'),
        ("store: s4://bucket", 'unknown store "s4://"'),
        ("store: s3://", "names no place"),
        ("mlflow: mlflow.example.org", "is no MLflow address"),
        ("mlflow: sqlite://mlflow.db", "should have three slashes"),
        ("mlflow: https://user:word@example.org", "must not hold a password"),
        ("advanced: {gateway_port: 80}", "greater than or equal to 1024"),
        ("advanced: {gateway_port: 8401}", "is also the gateway's port"),
        ("gate: {metric: roc_acu}", 'did you mean "roc_auc"?'),
        ("gate: {metric: rmse}", "rmse is no metric of a classification"),
        ("gate: {size: 1 parsec}", "is not a size"),
        ("gate: {latency_p99: 0s}", "should be longer than zero"),
        ("serve: {threshold: 1.5}", "less than 1"),
        ("serve: {threshold: {precision: 0.9, recall: 0.9}}", "exactly one of precision, recall"),
        ("serve: {workers: two}", 'should be a whole number, not "two"'),
        ("serve: {allow_pickle: yes}", "should be true or false"),
        ("serve: {capture: {exclude: [a], hash: [a]}}", "cannot be both excluded and hashed"),
        ("serve: {id: email, capture: {hash: [email]}}", "capture keeps it out of the records"),
        ("serve: []", "should be a mapping"),
        ("train: {params: {a: !!python/name:os.system ''}}", "is not allowed"),
        ("train: {params: {a: .nan}}", "a number has to be finite"),
        ("version: 2", "2 is not one of 1"),
        ("environments: {local: {kind: kubernetes}}", "is this machine"),
        ("environments: {prod: {train: {cmmand: a}}}", 'did you mean "command"?'),
    ],
)
def test_each_mistake_says_what_would_be_right(tmp_path: Path, addition: str, said: str) -> None:
    """One problem, one line, in words."""
    assert said in problem(tmp_path, addition)


@pytest.mark.parametrize(
    ("guardrail", "said"),
    [
        ("{metric: eror_rate, harm: {ratio: 1.1}, safe: {ratio: 2}}", 'did you mean "error_rate"?'),
        ("{metric: error_rate, harm: {ratio: 2}, safe: {ratio: 1.5}}", "harm should lie inside safe"),
        ("{metric: error_rate, harm: {ratio: 1.5}, safe: {ratio: 1.5}}", "harm should lie inside safe"),
        ("{metric: error_rate, harm: {margin: 1}, safe: {margin: 1.5}}", "outside 0 to 1"),
        ("{metric: error_rate, harm: {ratio: 0}, safe: {ratio: 1.5}}", "greater than 0"),
        ("{metric: revenue, harm: {ratio: 1.1}, safe: {ratio: 1.5}}", "revenue has a margin only"),
        ("{metric: latency, harm: {margin: 0.1}, safe: {margin: 0.2}}", "latency has ratios only"),
        ("{metric: latency, harm: {ratio: 1.5}, safe: {ratio: 2}}", "a ratio of latency stays below 2"),
        ("{metric: error_rate, safe: {ratio: 1.5}}", "harm: is required"),
    ],
)
def test_a_guardrail_that_means_nothing_is_refused(tmp_path: Path, guardrail: str, said: str) -> None:
    """A typo in a metric must never let a canary pass."""
    assert said in problem(tmp_path, f"rollout: {{guardrails: [{guardrail}]}}")


def test_own_metrics_and_means_are_accepted(tmp_path: Path) -> None:
    """Money has a margin in its own unit, and code may add metrics."""
    text = """\
    rollout:
      guardrails:
        - {metric: revenue, harm: {margin: 2.5}, safe: {margin: 5}}
        - {metric: "shop.metrics:returns", harm: {ratio: 1.1}, safe: {ratio: 1.2}}
    """
    assert len(load(write(tmp_path, SMALLEST + textwrap.dedent(text))).rollout.guardrails) == 2


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("{by: group}", "needs data.split.column"),
        ("{by: random, column: a}", "a random split has no column"),
        ("{by: time, gap: 1h}", "a gap needs by: time and a column"),
        ("{by: group, column: a, gap: 1h}", "a gap needs by: time and a column"),
        ("{by: time, holdout: 7d}", "a duration needs by: time and a column"),
        ("{holdout: 1.5}", "a share is between 0 and 1"),
        ("{holdout: 0}", "a share is between 0 and 1"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(tmp_path: Path, split: str, said: str) -> None:
    """Before any data is read."""
    found = problems(tmp_path, f"model: m\ndata: {{path: a.csv, target: y, split: {split}}}\n")
    assert said in found[0]
    assert len(found) == 1


def test_a_holdout_is_a_share_or_a_duration(tmp_path: Path) -> None:
    """The two are told apart by the unit."""
    text = "model: m\ndata: {path: a.csv, target: y, split: {by: time, column: t, holdout: 7d, gap: 1h}}\n"
    split = load(write(tmp_path, text)).data.split
    assert (split.holdout_share, split.holdout_seconds, split.gap) == (None, 7 * 86400.0, 3600.0)
    assert load(write(tmp_path, SMALLEST)).data.split.holdout_share == 0.2


# Nine levels of nine aliases each: a small file that stands for 400 million values.
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{this}: &{this} [{','.join(['*' + last] * 9)}]\n" for last, this in zip("abcdefgh", "bcdefghi", strict=True)
)
ENVIRONMENT = """\
environments:
  prod:
    store: s3://models/tidegate
    rollout: {step: {min: 10m}}
    train: {command: python big.py}
"""


def test_an_environment_overrides_single_keys(tmp_path: Path) -> None:
    """What it does not name stays as above; another way to train replaces the first."""
    text = SMALLEST + "rollout: {step: {max: 4h}}\ntrain: {params: {a: 1}}\n" + ENVIRONMENT
    config = load(write(tmp_path, text), "prod")
    assert (config.rollout.step.min, config.rollout.step.max) == (600, 14400)
    assert (config.train.command, config.train.entrypoint, config.train.params) == ("python big.py", None, {"a": 1})
    assert config.store == "s3://models/tidegate"
    assert load(tmp_path).rollout.step.min == 120


def test_an_environment_that_is_not_used_is_checked_too(tmp_path: Path) -> None:
    """A mistake in production's section is found on the laptop, at its own line."""
    text = SMALLEST + ENVIRONMENT.replace("min: 10m", "min: 10m, max: 1m")
    assert problems(tmp_path, text) == (
        "tidegate.yaml:6: environments.prod.rollout.step.max: should be at least step.min",
    )


def test_an_unknown_environment_is_named(tmp_path: Path) -> None:
    """With the one that was probably meant."""
    with pytest.raises(UsageError, match='"prd", did you mean "prod"'):
        load(write(tmp_path, SMALLEST + ENVIRONMENT), "prd")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "should be a mapping"),
        ("just words", "should be a mapping"),
        ("model: [a\n", "not valid YAML"),
        ("model:\n\tname: a\n", "a tab where YAML wants spaces"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: &a [*a]\n", "an alias that contains itself"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ('model: "\\ud800"\n', "lone surrogate"),
        ("? [a, b]\n: 1\n", "a key has to be text"),
        (LAUGHS, "aliases multiply"),
        ("a" * 1_000_001, "larger than 1 MB"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    """Syntax, size and tricks."""
    assert any(said in line for line in problems(tmp_path, text))


def test_bytes_that_are_no_text_are_one_clear_error(tmp_path: Path) -> None:
    """With the line of the first bad byte."""
    (tmp_path / "tidegate.yaml").write_bytes(b"model: a\nb: \xff\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert caught.value.problems == ("tidegate.yaml:2: is not UTF-8 text",)


def test_a_folder_or_a_missing_file_is_an_error_too(tmp_path: Path) -> None:
    """Both say what to do."""
    with pytest.raises(ConfigError, match="does not exist"):
        load(tmp_path)
    (tmp_path / "tidegate.yaml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


def test_anchors_and_merges_work_and_keep_their_lines(tmp_path: Path) -> None:
    """Shared parts may be written once."""
    text = SMALLEST + "gate: {checks: [&c {metric: brier, tolerance: 0.1}, {<<: *c, metric: f1}]}\n"
    assert load(write(tmp_path, text)).gate.checks[1].tolerance == 0.1


def test_yes_no_and_on_are_text(tmp_path: Path) -> None:
    """A column may be called `no`; only true and false are booleans."""
    config = load(write(tmp_path, "model: m\ndata: {path: a.csv, target: no, drop: [on, y]}\n"))
    assert (config.data.target, config.data.drop) == ("no", ("on", "y"))


def test_a_terminal_escape_in_the_file_is_shown_not_obeyed(tmp_path: Path) -> None:
    """Colours and cursor moves stay text."""
    found = problem(tmp_path, r'contract: "/\e[2Jx"')
    assert "\x1b" not in found
    assert r"\x1b" in found


def test_a_plan_file_is_checked_like_a_section(tmp_path: Path) -> None:
    """`rollout replay` reads the same keys, and may judge requests."""
    plan = tmp_path / "plan.yaml"
    plan.write_text("unit: request\nsteps: [20, 50]\n")
    assert load_section(plan, Rollout).unit.per == "request"
    plan.write_text("stps: [20]\n")
    with pytest.raises(ConfigError) as caught:
        load_section(plan, Rollout)
    assert caught.value.problems == ('plan.yaml:1: stps: unknown key, did you mean "steps"?',)


def sections(model: type[Section]) -> set[type[Section]]:
    found = {model}
    for child in Section.__subclasses__():
        found.add(child)
    return found


def test_every_key_is_documented() -> None:
    """Each field of each section has a description, which editors show."""
    for section in sections(Config):
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert section.__doc__


def test_the_schema_accepts_the_documented_file_and_knows_defaults() -> None:
    """Editors get types, descriptions and defaults; an environment may leave keys out."""
    document = schema()
    assert json.loads(json.dumps(document)) == document
    assert document["properties"]["model"]["description"]
    step = document["$defs"]["Step"]["properties"]["min"]
    assert (step["type"], step["default"]) == ("string", "2m")
    assert "required" not in document["$defs"]["DataOverride"]
    assert document["$defs"]["Data"]["additionalProperties"] is False
    references = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(document)))
    assert references <= set(document["$defs"])


KEYS = st.sampled_from(
    ["model", "data", "path", "target", "rollout", "steps", "step", "min", "guardrails", "metric", "harm", "serve",
     "threshold", "environments", "prod", "train", "params", "split", "holdout", "notify", "store", "<<", "on"]
) | st.text(max_size=5)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(
    ["2m", "auto", "7d", "error_rate", "env:A", "s3://a/b", "sqlite:///x"]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=30
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_any_mapping_loads_or_is_a_config_error(tmp_path: Path, document: dict[str, Any]) -> None:
    """Whatever has the shape of a config never raises anything else, and never reports nothing."""
    load_or_explain(tmp_path, yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="{}[]:,&*!|>-?'\"\\#%@` \n\t<a1.~", max_size=60))
@example('a: "\\UFFFFFFFF"')
@example("a: !!int x")
@example("a: !!float x")
@example("a: 0b_")
@example("a: 2001-99-99")
@example("<<: 1")
@example("<<: [1, {a: b}]")
@example("? !!python/object/apply:os.system ['x']\n: 1")
def test_any_text_loads_or_is_a_config_error(tmp_path: Path, text: str) -> None:
    """The same for text that may not even be YAML."""
    load_or_explain(tmp_path, text.encode("utf-8", "surrogatepass"))


def load_or_explain(folder: Path, content: bytes) -> None:
    (folder / "tidegate.yaml").write_bytes(content)
    try:
        config = load(folder)
    except ConfigError as error:
        lines = error.problems
    else:
        json.dumps(resolved(config), allow_nan=False)
        return
    assert lines
    assert all(re.match(r"tidegate\.yaml:\d+: ", line) and line.isprintable() for line in lines)
