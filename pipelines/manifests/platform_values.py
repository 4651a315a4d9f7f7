"""The values of charts/tidegate: the judge, the console and the gateway, once in a namespace."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tidegate.core.config_types import Text, Token
from tidegate.pipelines.manifests.value_types import (
    Count,
    Free,
    Hostname,
    Label,
    MaybeDigest,
    Named,
    Objects,
    Positive,
    Repository,
    Texts,
    Values,
    WholePort,
)

SMALL: Free = {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}}
_Duration = Annotated[str, Field(pattern=r"^[0-9]+(s|m|h)$")]


class PlatformImage(Values):
    """An image with `tidegate[all]` in it: the judge, the console and the smoke test run from it."""

    repository: Repository = Field(default="ghcr.io/tidegate/tidegate", description="Where it lies, without a tag.")
    tag: str = Field(default="", description="Default: the chart's appVersion. Not used where there is a digest.")
    digest: MaybeDigest = Field(default="", description="What runs, and nothing else: a tag may be moved.")
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(default="IfNotPresent", description="When to pull.")
    pull_secrets: list[Label] = Field(default=[], description="Secrets of the namespace that may pull it.")


class StorePlace(Values):
    """Ledger, telemetry, labels and reports; in a cluster always a bucket."""

    address: Annotated[str, Field(pattern=r"^((s3|gs|gcs|az|abfs|abfss)://[^\s]+)?$")] = Field(
        default="", description="fsspec address, as `store` of the environment in tidegate.yaml."
    )
    existing_secret: Named = Field(
        default="", description="Secret whose entries become credentials, such as AWS_ACCESS_KEY_ID."
    )
    endpoint: Annotated[str, Field(pattern=r"^(https?://[^\s]+)?$")] = Field(
        default="", description="Address of an object store that is not AWS's; becomes AWS_ENDPOINT_URL."
    )


class Mlflow(Values):
    """The MLflow server; not part of this chart."""

    address: Annotated[str, Field(pattern=r"^(https?://[^\s]+|databricks)?$")] = Field(
        default="", description="As `mlflow` of the environment in tidegate.yaml."
    )
    existing_secret: Named = Field(
        default="", description="Secret with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or a token."
    )


class Account(Values):
    """The identity of a component."""

    name: Named = Field(default="", description="An account that somebody else made; empty: the chart makes one.")
    annotations: Texts = Field(default={}, description="For instance a role of the cloud that may write the store.")


class Component(Values):
    """What every Deployment here can be told."""

    enabled: bool = Field(default=True, description="Whether it is there.")
    resources: Free = Field(default=SMALL, description="What each pod gets.")
    service_account: Account = Field(default=Account(), description="The identity of the pods.")
    node_selector: Texts = Field(default={}, description="Labels of the nodes that may run it.")
    tolerations: Objects = Field(default=[], description="Taints that it tolerates.")
    affinity: Free = Field(default={}, description="As a pod has it.")
    priority_class_name: Named = Field(default="", description="As a pod has it.")
    pod_labels: Texts = Field(default={}, description="On every pod.")
    pod_annotations: Texts = Field(default={}, description="On every pod.")
    extra_env: Objects = Field(default=[], description="More environment of the container.")
    extra_env_from: Objects = Field(default=[], description="More of it, from ConfigMaps and Secrets.")
    extra_volumes: Objects = Field(default=[], description="More volumes of the pod.")
    extra_volume_mounts: Objects = Field(default=[], description="Where the container sees them.")


class Collector(Values):
    """What takes Envoy's access log, which speaks gRPC only, and hands it to the judge beside it."""

    enabled: bool = Field(default=True, description="Whether it is there; the Gateway of this chart needs it.")
    repository: Repository = Field(default="docker.io/otel/opentelemetry-collector", description="Its image.")
    tag: str = Field(default="0.140.0", description="Not used where there is a digest.")
    digest: MaybeDigest = Field(default="", description="What runs, and nothing else: a tag may be moved.")
    resources: Free = Field(
        default={"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        description="What it gets.",
    )


class Judge(Component):
    """Answers Argo's analyses: promote, rollback or continue. Apart from the console, whose faults abort nothing.

    There is one pod of it: it holds what has not yet become a block, and analyses bridge minutes without it.
    """

    existing_secret: Label = Field(
        default="tidegate-judge", description="Secret whose entry `token` analyses must send; you make it."
    )
    collector: Collector = Field(default=Collector(), description="Takes the gateway's access log, by OTLP.")


class Console(Component):
    """The web page and its HTTP API, of the project in `project`."""

    enabled: bool = Field(default=False, description="Whether it is there; it needs `project`.")
    replicas: Positive = Field(default=1, description="Pods.")
    existing_secret: Label = Field(
        default="tidegate-console",
        description="Secret whose entry `tokens` holds viewer:TOKEN,operator:TOKEN; you make it.",
    )
    hosts: list[Hostname] = Field(default=[], description="Names under which browsers reach it.")
    operates: bool = Field(default=False, description="Whether its operators may promote and abort rollouts.")


class Templates(Values):
    """The AnalysisTemplates that Rollouts refer to. They are all that an own Rollout needs, beside the judge."""

    enabled: bool = Field(default=True, description="Whether they are there.")
    judge_url: Annotated[str, Field(pattern=r"^(https?://[^\s/]+)?$")] = Field(
        default="", description="Default: the judge of this chart."
    )
    plan: Free = Field(
        default={}, description="Keys of `rollout:` in tidegate.yaml, for Rollouts that tidegate did not start."
    )
    error_limit: Positive = Field(
        default=30, description="Failed calls in a row, 10 seconds apart, until the rollout aborts: 5 minutes."
    )
    timeout_seconds: Positive = Field(default=10, description="Of one call.")
    keep: Positive = Field(default=20, description="Measurements that an AnalysisRun keeps.")


class GatewayPart(Values):
    """A Gateway of Envoy Gateway that tells the judge of every request."""

    enabled: bool = Field(default=True, description="Whether it is there; false: routes name one of yours.")
    class_name: Label = Field(default="envoy", description="GatewayClass.")
    create_class: bool = Field(default=False, description="Make the GatewayClass too: one in a cluster.")
    port: WholePort = Field(default=80, description="Plain HTTP; used where there is no `tlsSecret`.")
    tls_secret: Named = Field(default="", description="Secret with a certificate: HTTPS on 443 instead.")
    service_name: Label = Field(default="tidegate-gateway", description="Name of the Service that Envoy Gateway makes.")
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="LoadBalancer", description="Its type."
    )
    replicas: Positive = Field(default=2, description="Envoy pods.")
    unit_header: Token = Field(default="x-user-id", description="Header that names the user, for the access log.")


class Network(Values):
    """Who may talk to the judge and the console, and whom they may talk to."""

    enabled: bool = Field(default=True, description="Whether there are NetworkPolicies.")
    rollouts_namespace: Label = Field(
        default="argo-rollouts", description="Where the controller of Argo Rollouts runs."
    )
    gateway_namespace: Label = Field(default="envoy-gateway-system", description="Where the gateway's pods run.")
    monitoring_namespace: Label = Field(default="monitoring", description="Where Prometheus runs.")
    store_ports: list[WholePort] = Field(default=[443], description="Ports of the store and of MLflow.")
    api_ports: list[WholePort] = Field(default=[443, 6443], description="Ports of the API server.")
    console_from: Objects = Field(default=[], description="Peers that may open the console; empty: this namespace.")
    egress: Objects = Field(default=[], description="More rules of where pods may go, as a NetworkPolicy has them.")


class Scrape(Values):
    """ServiceMonitors, where the cluster knows that kind."""

    enabled: bool = Field(default=False, description="Whether Prometheus reads /metrics.")
    interval: _Duration = Field(default="30s", description="How often.")
    labels: Texts = Field(default={}, description="What your Prometheus selects ServiceMonitors by.")


class PlatformValues(Values):
    """What every model of a namespace shares."""

    image: PlatformImage = Field(default=PlatformImage(), description="An image with `tidegate[all]` in it.")
    environment: Text = Field(default="prod", description="Name of the environment, as in tidegate.yaml.")
    project: str = Field(default="", description="Text of tidegate.yaml, for the console and the judge.")
    store: StorePlace = Field(default=StorePlace(), description="Ledger, telemetry, labels and reports.")
    mlflow: Mlflow = Field(default=Mlflow(), description="The MLflow server; not part of this chart.")
    judge: Judge = Field(default=Judge(), description="Answers Argo's analyses.")
    analysis_templates: Templates = Field(default=Templates(), description="What Rollouts refer to.")
    console: Console = Field(default=Console(), description="The web page and its HTTP API.")
    gateway: GatewayPart = Field(default=GatewayPart(), description="A Gateway that tells the judge of every request.")
    network_policy: Network = Field(default=Network(), description="Who may talk to whom.")
    service_monitor: Scrape = Field(default=Scrape(), description="Prometheus reads /metrics.")
    disruption_budget: bool = Field(default=True, description="A PodDisruptionBudget where there are several pods.")
    drain_seconds: Count = Field(default=5, description="A pod that ends serves on, until no proxy sends to it.")
    common_labels: Texts = Field(default={}, description="On every object.")
    common_annotations: Texts = Field(default={}, description="On every object.")
    extra_objects: Objects = Field(default=[], description="Whole objects more; templates in them are filled in.")
    require_crds: bool = Field(
        default=True, alias="requireCRDs", description="Refuse a cluster that lacks a kind; false for `helm template`."
    )
