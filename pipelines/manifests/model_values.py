"""The values of charts/tidegate-model: one model in one environment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tidegate.core.config_types import Name, Text, Token
from tidegate.pipelines.manifests.value_types import (
    Address,
    Count,
    Digest,
    Free,
    Hostname,
    Label,
    Named,
    Objects,
    Positive,
    Repository,
    Texts,
    Values,
    WholePort,
)

PercentOfUsers = Annotated[int, Field(ge=1, le=99)]


class ModelImage(Values):
    """The image that `tidegate package --image --push` made."""

    repository: Repository = Field(description="Where the image lies, without a tag.")
    digest: Digest = Field(description="What runs, and nothing else: a tag may be moved, a digest may not.")
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(default="IfNotPresent", description="When to pull.")
    pull_secrets: list[Label] = Field(default=[], description="Secrets of the namespace that may pull it.")


class Autoscaling(Values):
    """A HorizontalPodAutoscaler on the Rollout; `replicas` is then not set at all."""

    enabled: bool = Field(default=False, description="Whether the number of pods follows the load.")
    min_replicas: Positive = Field(default=2, description="Never fewer.")
    max_replicas: Positive = Field(default=10, description="Never more.")
    target_cpu: Count = Field(default=70, description="Per cent of the requested processors; 0: not looked at.")
    target_memory: Count = Field(default=0, description="Per cent of the requested memory; 0: not looked at.")
    metrics: Objects = Field(default=[], description="More metrics, as autoscaling/v2 has them.")
    behavior: Free = Field(default={}, description="How fast it may scale, as autoscaling/v2 has it.")


class DisruptionBudget(Values):
    """How many pods a drained node may take at once; made where there is more than one pod."""

    enabled: bool = Field(default=True, description="Whether there is one.")
    max_unavailable: Positive = Field(default=1, description="Pods of both arms together.")


class Gpu(Values):
    """Whole GPUs of each pod."""

    count: Count = Field(default=0, description="0: runs on processors.")
    resource: Text = Field(default="nvidia.com/gpu", description="Name of the resource, and of the taint of its nodes.")
    tolerate: bool = Field(default=True, description="Tolerate the taint of GPU nodes.")
    runtime_class_name: Named = Field(default="", description="RuntimeClass, where GPUs need one.")


class Spread(Values):
    """Pods on different machines."""

    enabled: bool = Field(default=True, description="Whether pods keep apart.")
    topology_key: Text = Field(default="kubernetes.io/hostname", description="What they keep apart by.")
    when_unsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"] = Field(
        default="ScheduleAnyway", description="Whether that is a wish or a condition."
    )


class Account(Values):
    """The identity of the pods; it may do nothing in the cluster, and no token is mounted."""

    create: bool = Field(default=True, description="Whether the chart makes it.")
    name: Named = Field(default="", description="Default: the model's name, or `default` where none is made.")
    annotations: Texts = Field(default={}, description="For instance a role of the cloud that may write the store.")


class Capture(Values):
    """Recording of predictions into the store, which drift and late metrics are computed from."""

    enabled: bool = Field(default=False, description="Whether predictions are recorded.")
    store: str = Field(default="", description="fsspec address of the store.")
    unit_header: Token = Field(default="x-user-id", description="Header that names the user.")
    id: str = Field(default="", description="Header or field that names the request in the caller's words.")
    flush_seconds: float = Field(default=5.0, gt=0, description="How often records are written.")
    exclude: list[str] = Field(default=[], description="Columns that are never written.")
    hash: list[str] = Field(default=[], description="Columns of which only a keyed hash is written.")
    existing_secret: Named = Field(default="", description="Secret whose entries become the store's credentials.")


class Gateway(Values):
    """The Gateway that the route belongs to; charts/tidegate makes one called tidegate."""

    name: Label = Field(default="tidegate", description="Its name.")
    namespace: Named = Field(default="", description="Its namespace; empty: this one.")
    section_name: Named = Field(default="", description="One of its listeners; empty: all.")


class ApiKeys(Values):
    """Callers must send a key, in x-api-key or authorization."""

    existing_secret: Named = Field(
        default="", description="Secret with one key in each entry, named by who has it; empty: open to everybody."
    )
    smoke_entry: str = Field(default="", description="The entry whose key the smoke request sends.")


class Sticky(Values):
    """How a user stays on one arm."""

    mode: Literal["patch", "none"] = Field(
        default="patch",
        description="patch: the laptop's hash, by an EnvoyPatchPolicy, which Envoy Gateway must allow "
        "(extensionApis.enableEnvoyPatchPolicy); none: no stickiness, so users change arms between requests.",
    )
    header: Token = Field(default="x-user-id", description="Header that names the user.")
    cookie: Token = Field(default="tg_uid", description="Cookie for users without the header; the gateway sets it.")


class Traffic(Values):
    """Who sees which arm, and what the gateway refuses."""

    router: Literal["gatewayAPI", "none"] = Field(
        default="gatewayAPI",
        description="none: the share of pods is the share of requests; nobody is sticky, so nothing can be judged.",
    )
    hostnames: list[Hostname] = Field(default=[], description="Host names of the route; empty: all of the Gateway's.")
    gateway: Gateway = Field(default=Gateway(), description="The Gateway that the route belongs to.")
    sticky: Sticky = Field(default=Sticky(), description="How a user stays on one arm.")
    timeout: Annotated[str, Field(pattern=r"^([0-9]{1,5}(h|m|s|ms)){1,4}$")] = Field(
        default="1s", description="The service answers its own timeout first; this catches one that hangs."
    )
    max_body_bytes: Positive = Field(default=1_000_000, description="Largest request that is passed on.")
    requests_per_second: Count = Field(
        default=0, description="More are answered 429, by each gateway pod; 0: no limit."
    )
    api_keys: ApiKeys = Field(default=ApiKeys(), description="Callers must send a key.")


class Smoke(Values):
    """Before the first user: one golden request to the canary."""

    enabled: bool = Field(default=True, description="Whether a Job asks the canary first.")
    address: Address = Field(
        default="http://tidegate-gateway.envoy-gateway-system",
        description="Where the gateway listens inside the cluster; the request takes the header route at weight 0. "
        "Empty: straight to the canary's Service.",
    )


class Step(Values):
    """One weight of the ladder."""

    weight: PercentOfUsers = Field(description="Whole per cent of the users on the canary.")
    min_seconds: Count = Field(default=120, description="The judge is not asked sooner.")
    max_seconds: Positive = Field(default=172_800, description="Then the step ends as step.on_inconclusive says.")


class Ladder(Values):
    """A release on its way to everybody: one `setWeight` and one analysis for each step."""

    id: str = Field(default="", description="The ledger's id of the rollout, salt of the assignment; empty: none yet.")
    steps: list[Step] = Field(
        default=[Step(weight=5), Step(weight=25), Step(weight=50)], description="100 % follows the last by itself."
    )
    interval_seconds: Positive = Field(default=30, description="How often the judge is asked.")
    judge: bool = Field(
        default=True, description="Ask tidegate-verdict at each step; false: each step waits for a person."
    )
    guard: bool = Field(default=True, description="Ask tidegate-guard for hard stops, until the end.")
    smoke: Smoke = Field(default=Smoke(), description="Before the first user: one golden request to the canary.")
    keep_previous_seconds: Count = Field(default=3600, description="How long the old pods stay warm afterwards.")
    abort_delay_seconds: Count = Field(default=60, description="How long pods of an aborted canary stay.")
    progress_deadline_seconds: Positive = Field(
        default=900, description="Pulling the image and loading the model may take this long; then the rollout aborts."
    )
    history: Positive = Field(default=3, description="Old ReplicaSets that are kept to go back to.")


class Network(Values):
    """Who may talk to the pods, and whom they may talk to."""

    enabled: bool = Field(default=True, description="Whether there is a NetworkPolicy.")
    gateway_namespace: Label = Field(default="envoy-gateway-system", description="Where the gateway's pods run.")
    monitoring_namespace: Label = Field(default="monitoring", description="Where Prometheus runs.")
    store_ports: list[WholePort] = Field(default=[443], description="Ports of the store; used with `capture`.")
    store_to: Objects = Field(default=[], description="Peers that are the store; empty: any.")
    ingress: Objects = Field(default=[], description="More rules of who may come in, as a NetworkPolicy has them.")
    egress: Objects = Field(default=[], description="More rules of where pods may go.")


class Scrape(Values):
    """A ServiceMonitor, where the cluster knows that kind."""

    enabled: bool = Field(default=False, description="Whether Prometheus reads /metrics of both arms.")
    interval: Annotated[str, Field(pattern=r"^[0-9]+(s|m)$")] = Field(default="30s", description="How often.")
    labels: Texts = Field(default={}, description="What your Prometheus selects ServiceMonitors by.")


class ModelValues(Values):
    """One model in one environment. `tidegate render` makes them from tidegate.yaml."""

    model: Name = Field(description="Registered name of the model.")
    environment: Name = Field(description="Name of the environment, as in tidegate.yaml.")
    name_override: Named = Field(default="", description="Name of the objects; default: the model's as a DNS label.")
    release: str = Field(default="", description="Id of the release that the image was made of.")
    version: str = Field(default="", description="MLflow version of the model in it.")
    image: ModelImage = Field(description="The image that `tidegate package --image --push` made.")
    replicas: Positive = Field(default=2, description="Pods of the stable arm; not used with `autoscaling`.")
    autoscaling: Autoscaling = Field(default=Autoscaling(), description="The number of pods follows the load.")
    disruption_budget: DisruptionBudget = Field(
        default=DisruptionBudget(), description="How many pods a drained node may take at once."
    )
    resources: Free = Field(
        default={"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        description="What each pod gets, without GPUs.",
    )
    gpu: Gpu = Field(default=Gpu(), description="Whole GPUs of each pod.")
    workers: Positive = Field(default=1, description="Processes of each pod, sharing its port.")
    start_seconds: Positive = Field(default=300, description="Loading the model may take this long.")
    drain_seconds: Count = Field(default=10, description="A pod that ends serves on, until no proxy sends to it.")
    grace_seconds: Positive = Field(default=45, description="Then it is killed; longer than `drainSeconds`.")
    ladder: Ladder = Field(default=Ladder(), description="A release on its way to everybody.")
    traffic: Traffic = Field(default=Traffic(), description="Who sees which arm, and what the gateway refuses.")
    capture: Capture = Field(default=Capture(), description="Recording of predictions.")
    service_account: Account = Field(default=Account(), description="The identity of the pods.")
    network_policy: Network = Field(default=Network(), description="Who may talk to the pods.")
    service_monitor: Scrape = Field(default=Scrape(), description="Prometheus reads /metrics of both arms.")
    spread: Spread = Field(default=Spread(), description="Pods on different machines.")
    node_selector: Texts = Field(default={}, description="Labels of the nodes that may run it.")
    tolerations: Objects = Field(default=[], description="Taints that it tolerates, beside a GPU's.")
    affinity: Free = Field(default={}, description="As a pod has it.")
    priority_class_name: Named = Field(default="", description="As a pod has it.")
    common_labels: Texts = Field(default={}, description="On every object.")
    common_annotations: Texts = Field(default={}, description="On every object.")
    pod_labels: Texts = Field(default={}, description="On every pod.")
    pod_annotations: Texts = Field(default={}, description="On every pod.")
    extra_env: Objects = Field(default=[], description="More environment of the container.")
    extra_env_from: Objects = Field(default=[], description="More of it, from ConfigMaps and Secrets.")
    extra_volumes: Objects = Field(default=[], description="More volumes of the pod.")
    extra_volume_mounts: Objects = Field(default=[], description="Where the container sees them.")
    extra_objects: Objects = Field(default=[], description="Whole objects more; templates in them are filled in.")
    require_crds: bool = Field(
        default=True, alias="requireCRDs", description="Refuse a cluster that lacks a kind; false for `helm template`."
    )
