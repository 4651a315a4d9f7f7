"""From tidegate.yaml to the values of the charts: what a key becomes, and what no cluster does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from golden import project, values

from tidegate.core.errors import ConfigError, TidegateError, UsageError
from tidegate.core.project import open_project
from tidegate.pipelines.manifests.from_config import (
    Deployment,
    kubernetes_environment,
    laid_over,
    model_values,
    platform_values,
    read_values,
)

IMAGE = "ghcr.io/acme/demand@sha256:" + "3f" * 32
CONFIG: dict[str, Any] = values("gitops")["project"]


def config(**over: Any) -> dict[str, Any]:
    """The tidegate.yaml of the GitOps set, with keys laid over its environment."""
    return {**CONFIG, "environments": {"prod": laid_over(CONFIG["environments"]["prod"], over)}}


def test_what_serving_needs_comes_from_serve_and_the_environment(tmp_path: Path) -> None:
    """Nothing is said twice: device, workers, limits, hostname, pull secret."""
    made = model_values(project(CONFIG, tmp_path), Deployment(IMAGE, "r-0123456789", 7))
    assert made["image"] == {
        "repository": "ghcr.io/acme/demand",
        "digest": "sha256:" + "3f" * 32,
        "pullSecrets": ["acme-registry"],
    }
    assert (made["gpu"], made["workers"], made["replicas"]) == ({"count": 1}, 2, 4)
    assert made["traffic"] == {
        "hostnames": ["demand.acme.dev"],
        "timeout": "1300ms",
        "maxBodyBytes": 2_000_000,
        "requestsPerSecond": 300,
        "apiKeys": {"existingSecret": "demand-keys", "smokeEntry": "smoke"},
        "sticky": {"header": "x-customer", "cookie": "tg_uid"},
    }
    assert made["capture"]["store"] == "s3://acme-ml/tidegate"
    assert made["capture"]["existingSecret"] == "tidegate-store"
    assert (made["release"], made["version"]) == ("r-0123456789", "7")


def test_the_ladder_of_the_config_and_its_times(tmp_path: Path) -> None:
    """Half a block between questions, at most half a minute."""
    made = model_values(project(CONFIG, tmp_path), Deployment(IMAGE))["ladder"]
    assert made["steps"] == [{"weight": weight, "minSeconds": 300, "maxSeconds": 21600} for weight in (5, 25, 50)]
    assert (made["id"], made["intervalSeconds"], made["keepPreviousSeconds"]) == ("", 30, 7200)


def test_the_ladder_of_a_plan_is_the_plans(tmp_path: Path) -> None:
    """Each step ends when the plan says, which knows the traffic."""
    from tidegate.core.config import Rollout, Step
    from tidegate.rollouts.planning import Measured, make_plan  # noqa: F401 - the plan is a real one

    rollout = Rollout.model_validate(
        {
            "steps": (10, 40),
            "guardrails": CONFIG.get(
                "guardrails",
                (
                    {
                        "metric": "error_rate",
                        "harm": {"ratio": 1.1, "margin": 0.001},
                        "safe": {"ratio": 1.5, "margin": 0.002},
                    },
                ),
            ),
            "step": Step(min=60.0),
        }
    )
    plan = make_plan(rollout, rollout_id="o-1", block_seconds=60.0, units_per_minute=500.0, error_rate=0.01)
    made = model_values(project(CONFIG, tmp_path), Deployment(IMAGE, rollout="o-1", plan=plan))["ladder"]
    assert made["id"] == "o-1"
    assert [one["weight"] for one in made["steps"]] == [10, 40]
    assert [one["maxSeconds"] for one in made["steps"]] == [round(one) for one in plan.step_max]


def test_auto_without_a_plan_waits_as_long_as_anybody_would(tmp_path: Path) -> None:
    """Nobody has measured the traffic, so the careful ladder and 48 hours a step."""
    bare = {key: value for key, value in CONFIG.items() if key != "rollout"}
    made = model_values(project(bare, tmp_path), Deployment(IMAGE))["ladder"]["steps"]
    assert made == [{"weight": weight, "minSeconds": 120, "maxSeconds": 172_800} for weight in (5, 25, 50)]


def test_values_of_the_environment_and_of_the_command_line_are_laid_over(tmp_path: Path) -> None:
    """Deeply, lists whole, the last one wins."""
    opened = project(config(values={"replicas": 4, "gpu": {"tolerate": False}}), tmp_path)
    made = model_values(opened, Deployment(IMAGE), {"replicas": 9})
    assert (made["replicas"], made["gpu"]) == (9, {"count": 1, "tolerate": False})


def test_a_value_that_the_chart_does_not_know_is_named_with_its_place(tmp_path: Path) -> None:
    """Before helm is asked: all of them at once."""
    opened = project(config(values={"replica": 4, "ladder": {"steps": [{"weight": 0}]}}), tmp_path)
    with pytest.raises(ConfigError) as error:
        model_values(opened, Deployment(IMAGE))
    assert error.value.problems == (
        "environments.prod.values: ladder.steps.0.weight: input should be greater than or equal to 1",
        "environments.prod.values: replica: no such key",
    )


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"store": ".tidegate/store"}, "store of prod is a folder"),
        ({"rollout": {"shadow": True}}, "mirrors nothing"),
        ({"serve": {"auth": {"api_keys": "env:KEYS"}}}, "no gateway of a cluster can read"),
    ],
)
def test_what_no_cluster_does_is_refused(over: dict[str, Any], said: str, tmp_path: Path) -> None:
    """And what to write instead is said, instead of doing less than was asked for."""
    with pytest.raises(UsageError, match=said):
        model_values(project(config(**over), tmp_path), Deployment(IMAGE))


@pytest.mark.parametrize("image", ["ghcr.io/acme/demand:1.2", "demand", "ghcr.io/acme/demand@sha256:12", ""])
def test_an_image_without_a_digest_is_refused(image: str, tmp_path: Path) -> None:
    """A tag may be moved."""
    with pytest.raises(UsageError, match="by its digest"):
        model_values(project(CONFIG, tmp_path), Deployment(image))


def test_the_platform_gets_the_project_and_its_addresses(tmp_path: Path) -> None:
    """The text of tidegate.yaml as it stands, since the console reads it anew."""
    opened = project(CONFIG, tmp_path)
    made = platform_values(opened, {"console": {"operates": True}})
    assert made["project"] == (tmp_path / "tidegate.yaml").read_text()
    assert made["store"] == {"address": "s3://acme-ml/tidegate"}
    assert made["mlflow"] == {"address": "https://mlflow.acme.dev"}
    assert made["console"] == {"enabled": True, "operates": True}
    assert made["gateway"] == {"unitHeader": "x-customer"}
    with pytest.raises(UsageError, match="no pod of a cluster reaches"):
        platform_values(project(config(mlflow="sqlite:///mlflow.db"), tmp_path))


def test_this_machine_has_no_manifests(tmp_path: Path) -> None:
    """The hint names an environment that has."""
    project(CONFIG, tmp_path)
    with pytest.raises(UsageError, match="this machine") as error:
        kubernetes_environment(open_project(tmp_path))
    assert error.value.hint == "Add `--env prod`."


def test_a_values_file_is_a_mapping(tmp_path: Path) -> None:
    """Empty is one, a list is none."""
    file = tmp_path / "values.yaml"
    file.write_text("replicas: 3\n")
    assert read_values(file) == {"replicas": 3}
    file.write_text("")
    assert read_values(file) == {}
    for content in ("- 1", "a: ["):
        file.write_text(content)
        with pytest.raises(TidegateError, match=r"values\.yaml"):
            read_values(file)
