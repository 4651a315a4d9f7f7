"""One environment with everything the road needs of it: the only place that picks a backend."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.config import LOCAL
from tidegate.core.errors import UsageError
from tidegate.core.project import Project
from tidegate.core.secret import variables
from tidegate.core.store import Store, open_store
from tidegate.registry.ledger import Ledger
from tidegate.registry.state import State, fold

if TYPE_CHECKING:
    from tidegate.core.kube import Cluster
    from tidegate.registry import Registry
    from tidegate.rollouts.drivers import RolloutDriver
    from tidegate.rollouts.drivers.kube import KubeDriver
    from tidegate.serving.deploy import Deployer


@dataclass(frozen=True)
class Environment:
    """The ports of one environment of one project. Heavy ones open when they are first used."""

    project: Project

    @property
    def run_dir(self) -> Path:
        """Where running processes leave their pid, port and address."""
        return self.project.state_dir / "run"

    @property
    def gateway_dir(self) -> Path:
        """Everything the gateway reads and writes."""
        return self.run_dir / "gateway"

    @property
    def pairs_dir(self) -> Path:
        """Where processes note, in a shadow phase, what they answered."""
        return self.run_dir / "pairs"

    @property
    def log_dir(self) -> Path:
        """What the processes print, and the gateway's access log."""
        return self.project.state_dir / "logs"

    @cached_property
    def store(self) -> Store:
        """The one place for files that must survive."""
        return open_store(self.project.store_url)

    @property
    def stream(self) -> str:
        """What the ledger, telemetry, labels and reports of this model in this environment are filed under."""
        return f"{self.project.config.model}.{self.project.env}"

    @cached_property
    def ledger(self) -> Ledger:
        """The events of this model in this environment."""
        return Ledger(self.store, self.stream)

    @cached_property
    def registry(self) -> Registry:
        """The model registry."""
        from tidegate.registry.mlflow_registry import MlflowRegistry

        return MlflowRegistry(self.project.mlflow_uri, self.project.config.model)

    @property
    def on_cluster(self) -> bool:
        """Whether it is on Kubernetes and not on this machine."""
        return self.project.env != LOCAL and self.project.config.environment(self.project.env).kind == "kubernetes"

    @cached_property
    def cluster(self) -> Cluster:
        """The namespace that a Kubernetes environment is in."""
        from tidegate.core.kube import Cluster

        where = self.project.config.environment(self.project.env)
        return Cluster(where.context, where.namespace)

    @cached_property
    def deployer(self) -> Deployer:
        """Where revisions run."""
        if self.on_cluster:
            from tidegate.serving.deploy.kube import KubeDeployer, label_value

            return KubeDeployer(self.cluster, label_value(self.project.config.model))
        from tidegate.serving.deploy.local import LocalDeployer

        config = self.project.config
        references = [config.serve.auth.api_keys] if config.serve.auth else []
        references += [one.webhook for one in config.notify]
        hidden = variables(references)
        # What may not be recorded is not told by its values in a shadow phase either.
        hidden_columns = {*config.serve.capture.exclude, *config.serve.capture.hash}
        slices = [one.column for one in config.gate.slices if one.column not in hidden_columns]
        return LocalDeployer(
            self.run_dir / "revisions", self.log_dir, hidden, pairs=self.pairs_dir, capture=self.capture, slices=slices
        )

    @property
    def capture(self) -> dict[str, Any]:
        """What serving processes record of predictions, as they read it."""
        serve = self.project.config.serve
        said = {"flush": serve.capture.flush, "exclude": serve.capture.exclude, "hash": serve.capture.hash}
        header = self.project.config.rollout.unit.header
        return {"store": self.project.store_url, "stream": self.stream, "unit_header": header, "id": serve.id, **said}

    @cached_property
    def driver(self) -> RolloutDriver:
        """Who moves the traffic."""
        return self.kube_driver if self.on_cluster else self._local_driver()

    @cached_property
    def kube_driver(self) -> KubeDriver:
        """The driver of a Kubernetes environment, which can serve a release without a rollout too."""
        from tidegate.pipelines.manifests.deploying import renderer
        from tidegate.rollouts.drivers.kube import KubeDriver
        from tidegate.serving.deploy.kube import object_name

        config = self.project.config
        keep, name = config.rollout.keep_previous, object_name(config.model)
        return KubeDriver(self.ledger, self.store, keep, self.cluster, name, render=renderer(self))

    def _local_driver(self) -> RolloutDriver:
        from tidegate.rollouts.drivers.local import LocalDriver

        return LocalDriver(self.ledger, self.store, self.project.config.rollout.keep_previous)

    @cached_property
    def _folded(self) -> list[State]:
        """The newest state, alone in a list: events only ever follow, and `up` asks several times a second."""
        return [State()]

    def state(self) -> State:
        """What the ledger says is true now."""
        self._folded[0] = fold(self.ledger.events(), self._folded[0])
        return self._folded[0]


def environment_for(project: Project) -> Environment:
    """Open the project's environment.

    Raises:
        UsageError: its kind is not built yet.
    """
    if project.env != LOCAL and project.config.environment(project.env).kind == "local":
        raise UsageError(
            f"The environment {project.env} is another one on this machine, which this version cannot deploy to yet.",
            "Leave out --env, or unset TIDEGATE_ENV, to use the local environment. A second stack on one machine is a "
            "second project folder.",
        )
    return Environment(project)
