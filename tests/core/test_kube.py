"""What a cluster promises, held against an API server in memory and, where there is one, against a real one."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kube_api import Fault, KubeApi, kubeconfig, serving

from tidegate.core import kube
from tidegate.core.errors import Conflict, Permanent, Temporary, UsageError
from tidegate.core.kube import CONFIG_MAP, NAMESPACE, POD, ROLLOUT, SECRET, SERVICE, Cluster, Kind

REAL = os.environ.get("TIDEGATE_TEST_KUBECONFIG", "")
Document = dict[str, Any]


@dataclass
class World:
    """A namespace of its own, and another manager of the same objects."""

    cluster: Cluster
    other: Callable[[Document], Document]


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with serving(KubeApi()) as server:
        yield server


@pytest.fixture
def cluster(api: KubeApi, tmp_path: Path) -> Cluster:
    return Cluster("fake", "default", kubeconfig(tmp_path, api), patience=3.0)


# One test below says that there is no real one; every promise would say it else.
@pytest.fixture(params=["fake", *(["real"] if REAL else [])])
def world(request: pytest.FixtureRequest, api: KubeApi, tmp_path: Path) -> Iterator[World]:
    namespace = f"tidegate-test-{uuid.uuid4().hex[:8]}"
    file = kubeconfig(tmp_path, api) if request.param == "fake" else Path(REAL)
    cluster = Cluster(None, namespace, file, patience=20.0)
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        yield World(cluster, lambda document: _as(cluster, "helm", document))
    finally:
        cluster.delete(NAMESPACE, namespace)


def _as(cluster: Cluster, manager: str, document: Document) -> Document:
    """Apply as somebody else."""
    query = {**kube._WRITING, "fieldManager": manager, "force": "true"}
    path = cluster._path(cluster.kind_of(document), document["metadata"]["name"])
    request = kube._Request("PATCH", path, query, document, "application/apply-patch+yaml")
    return cluster._line.send(request, cluster._ask("patch", CONFIG_MAP)).document


def config(name: str = "one", labels: dict[str, str] | None = None, **data: str) -> Document:
    metadata: Document = {"name": name} | ({"labels": labels} if labels else {})
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def test_what_is_applied_twice_is_written_once(world: World) -> None:
    """The second time nothing changed, so nobody who watches is woken."""
    first = world.cluster.apply(config(a="1"))
    again = world.cluster.apply(config(a="1"))
    assert first["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]
    changed = world.cluster.apply(config(a="2"))
    assert (changed["data"], changed["metadata"]["uid"]) == ({"a": "2"}, first["metadata"]["uid"])


def test_a_field_that_we_no_longer_apply_goes_and_others_keep_theirs(world: World) -> None:
    """Server-side apply knows who wrote which field."""
    world.cluster.apply(config(a="1", b="1"))
    world.other(config(c="theirs"))
    assert world.cluster.apply(config(a="1"))["data"] == {"a": "1", "c": "theirs"}


def test_a_field_of_somebody_else_is_not_taken_without_force(world: World) -> None:
    """The message names the field and who owns it."""
    world.other(config(a="theirs"))
    with pytest.raises(Conflict) as caught:
        world.cluster.apply(config(a="ours"))
    assert ".data.a" in caught.value.message
    assert "helm" in caught.value.message
    assert world.cluster.get(CONFIG_MAP, "one")["data"] == {"a": "theirs"}  # type: ignore[index]  # it is there
    assert world.cluster.apply(config(a="ours"), force=True)["data"] == {"a": "ours"}


def test_a_dry_run_says_what_would_be_and_changes_nothing(world: World) -> None:
    """So `tidegate diff` is the server's own opinion."""
    world.cluster.apply(config(a="1"))
    assert world.cluster.apply(config(a="2"), dry_run=True)["data"] == {"a": "2"}
    assert world.cluster.apply(config("two", a="2"), dry_run=True)["data"] == {"a": "2"}
    assert world.cluster.get(CONFIG_MAP, "one")["data"] == {"a": "1"}  # type: ignore[index]  # it is there
    assert world.cluster.get(CONFIG_MAP, "two") is None


def test_containers_are_known_by_name_and_not_by_place(world: World) -> None:
    """Another manager's sidecar survives our apply."""

    def app(*images: str) -> Document:
        labels = {"app": "a"}
        containers = [{"name": image.partition(":")[0], "image": image} for image in images]
        template = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
        spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec}

    world.cluster.apply(app("main:1"))
    world.other(app("side:1"))
    after = world.cluster.apply(app("main:2"))["spec"]["template"]["spec"]["containers"]
    assert {one["name"]: one["image"] for one in after} == {"main": "main:2", "side": "side:1"}


def test_the_same_name_is_made_only_once(world: World) -> None:
    """A second creation is somebody else's object."""
    world.cluster.create(config(a="1"))
    with pytest.raises(Conflict, match="exists"):
        world.cluster.create(config(a="1"))


def test_a_generated_name_is_another_one_each_time(world: World) -> None:
    """As many as were asked for."""
    document = config(a="1")
    document["metadata"] = {"generateName": "run-"}
    names = {world.cluster.create(document)["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert {one["metadata"]["name"] for one in world.cluster.list(CONFIG_MAP)} >= names


def test_a_patch_of_what_has_changed_since_is_refused(world: World) -> None:
    """No update is lost: whoever saw an older state is told."""
    seen = world.cluster.apply(config(a="1"))["metadata"]["resourceVersion"]
    world.cluster.patch(CONFIG_MAP, "one", {"data": {"b": "2"}}, resource_version=seen)
    with pytest.raises(Conflict, match="modified"):
        world.cluster.patch(CONFIG_MAP, "one", {"data": {"b": "3"}}, resource_version=seen)
    assert world.cluster.patch(CONFIG_MAP, "one", {"data": {"a": None}})["data"] == {"b": "2"}
    with pytest.raises(Conflict, match="There is no"):
        world.cluster.patch(CONFIG_MAP, "nobody", {"data": {"b": "3"}})


def test_only_the_object_that_was_meant_is_deleted(world: World) -> None:
    """A uid tells it from a later one of the same name."""
    old = world.cluster.apply(config(a="1"))["metadata"]["uid"]
    assert world.cluster.delete(CONFIG_MAP, "one", uid=old)
    world.cluster.apply(config(a="2"))
    with pytest.raises(Conflict):
        world.cluster.delete(CONFIG_MAP, "one", uid=old)
    assert world.cluster.delete(CONFIG_MAP, "one")
    assert not world.cluster.delete(CONFIG_MAP, "one")


def test_objects_are_listed_by_labels(world: World) -> None:
    """All labels that are asked for, not some."""
    world.cluster.apply(config("one", {"team": "a", "app": "x"}))
    world.cluster.apply(config("two", {"team": "a"}))
    assert [one["metadata"]["name"] for one in world.cluster.list(CONFIG_MAP, {"team": "a"})] == ["one", "two"]
    (found,) = world.cluster.list(CONFIG_MAP, {"team": "a", "app": "x"})
    assert (found["kind"], found["apiVersion"]) == ("ConfigMap", "v1")


def test_status_is_written_apart_from_the_rest(world: World) -> None:
    """A patch of the object leaves its status; one of the status leaves the spec."""
    document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
    }
    world.cluster.apply(document)
    ingress = {"loadBalancer": {"ingress": [{"hostname": "example.org"}]}}
    world.cluster.patch(SERVICE, "s", {"status": ingress})
    assert not world.cluster.get(SERVICE, "s").get("status", {}).get("loadBalancer")  # type: ignore[union-attr]  # it is there
    done = world.cluster.patch(SERVICE, "s", {"status": ingress}, subresource="status")
    assert done["status"]["loadBalancer"]["ingress"][0]["hostname"] == "example.org"


def test_a_namespace_that_is_not_there_is_said_so(world: World) -> None:
    """With the command that makes it."""
    document = config()
    document["metadata"]["namespace"] = "nowhere-at-all"
    with pytest.raises(Permanent, match="namespace"):
        world.cluster.apply(document)


def test_a_name_that_cannot_be_is_refused_for_good(world: World) -> None:
    """Trying again would not help."""
    with pytest.raises(Permanent, match="invalid"):
        world.cluster.create(config("Not_A_Name"))


def test_what_the_cluster_does_not_serve_is_known(world: World) -> None:
    """`serves` says no; whoever asks all the same is told what is missing, not that the object is."""
    strange = Kind("tidegate.example/v1", "Strange", "stranges")
    assert world.cluster.serves(CONFIG_MAP)
    assert not world.cluster.serves(strange)
    with pytest.raises(Permanent, match="does not serve"):
        world.cluster.get(strange, "x")
    with pytest.raises(Permanent, match="does not serve"):
        world.cluster.list(strange)
    with pytest.raises(Permanent, match="does not serve"):
        world.cluster.apply({"apiVersion": "tidegate.example/v1", "kind": "Strange", "metadata": {"name": "x"}})


def test_one_may_ask_what_one_may_do(world: World) -> None:
    """Who made the namespace may write in it."""
    assert world.cluster.may("create", CONFIG_MAP)


def test_a_watch_gives_each_state_once(world: World) -> None:
    """What is there, then what changes, then what goes."""
    world.cluster.apply(config("one", {"app": "x"}, a="1"))
    seen: list[tuple[str, str | None, bool]] = []
    steps = [
        lambda: world.cluster.apply(config("one", {"app": "x"}, a="2")),
        lambda: world.cluster.apply(config("two", {"app": "y"}, a="1")),
        lambda: world.cluster.delete(CONFIG_MAP, "one"),
    ]
    for one in world.cluster.watch(CONFIG_MAP, {"app": "x"}, seconds=20):
        seen.append((one["metadata"]["name"], one["data"]["a"], "deletionTimestamp" in one["metadata"]))
        if not steps:
            break
        while steps:
            steps.pop(0)()
            if len(steps) != 1:
                break
    assert seen[:3] == [("one", "1", False), ("one", "2", False), ("one", "2", True)]


@pytest.mark.skipif(not REAL, reason="TIDEGATE_TEST_KUBECONFIG names no cluster; the one in memory has no schemas")
def test_a_strange_field_is_refused_by_a_real_server(world: World, request: pytest.FixtureRequest) -> None:
    """A typo in a chart must not be dropped in silence."""
    if "fake" in request.node.callspec.id:
        return
    document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"prots": [{"port": 80}]}}
    with pytest.raises(Permanent, match="prots"):
        world.cluster.apply(document)


# From here on faults, which only the server in memory makes on demand.


def on(verb: str, part: str) -> Callable[[str, str], bool]:
    return lambda method, path: method == verb and part in path


def test_a_busy_server_is_asked_again_when_it_said(api: KubeApi, cluster: Cluster) -> None:
    """429 with Retry-After is a time, not a failure."""
    api.faults.append(Fault(on("PATCH", "configmaps"), 429, {"Retry-After": "1"}))
    begun = time.monotonic()
    assert cluster.apply(config(a="1"))["data"] == {"a": "1"}
    assert 0.9 < time.monotonic() - begun < 2.5


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_that_stumbles_is_asked_again(api: KubeApi, cluster: Cluster, status: int) -> None:
    """Twice, then it works."""
    api.faults.append(Fault(lambda *_: True, status, times=2))
    assert cluster.create(config(a="1"))["data"] == {"a": "1"}


def test_a_patch_that_fits_no_schema_is_not_tried_again(api: KubeApi, cluster: Cluster) -> None:
    """A real server answers 500 to it, as if it could do better later."""
    told = "failed to create typed patch object (/s; /v1, Kind=Service): .spec.prots: field not declared in schema"
    api.faults.append(Fault(lambda *_: True, 500, times=1000, message=told))
    with pytest.raises(Permanent, match="prots"):
        cluster.apply(config())
    assert len(api.requests) == 1


def test_patience_ends(api: KubeApi, tmp_path: Path) -> None:
    """A server that stays busy is a reason to stop, and one may try again later."""
    api.faults.append(Fault(lambda *_: True, 503, times=1000))
    with pytest.raises(Temporary, match="made to fail with 503"):
        Cluster("fake", "default", kubeconfig(tmp_path, api), patience=0.8).get(POD, "x")
    assert 1 < len(api.requests) < 10


def test_a_server_that_nobody_reaches_is_named(tmp_path: Path, api: KubeApi) -> None:
    """The context is what a person knows it by."""
    api.url = "http://127.0.0.1:9"
    with pytest.raises(Temporary, match="cluster fake"):
        Cluster("fake", "default", kubeconfig(tmp_path, api), patience=0.5).get(POD, "x")


def test_a_lost_answer_makes_no_second_object(api: KubeApi, cluster: Cluster) -> None:
    """The object was made, its answer was not heard: the second attempt finds it."""
    api.faults.append(Fault(on("POST", "configmaps"), lost=True, times=2))
    document = config(a="1")
    document["metadata"] = {"generateName": "run-"}
    made = cluster.create(document)
    assert [one["metadata"]["uid"] for one in api.all(CONFIG_MAP)] == [made["metadata"]["uid"]]


def test_a_lost_answer_is_no_licence_to_take_the_name_of_another(api: KubeApi, cluster: Cluster) -> None:
    """What was there before is not ours, however often we asked."""
    api.write(CONFIG_MAP, config(a="theirs"))
    api.faults.append(Fault(on("POST", "configmaps"), 503))
    with pytest.raises(Conflict, match="exists"):
        cluster.create(config(a="ours"))


def test_a_lost_answer_to_a_guarded_patch_is_told_as_a_conflict(api: KubeApi, cluster: Cluster) -> None:
    """It may have been our own: whoever guarded it looks again, and nothing is written twice."""
    seen = cluster.apply(config(a="1"))["metadata"]["resourceVersion"]
    api.faults.append(Fault(on("PATCH", "configmaps"), lost=True))
    with pytest.raises(Conflict, match="modified"):
        cluster.patch(CONFIG_MAP, "one", {"data": {"a": "2"}}, resource_version=seen)
    assert api.read(CONFIG_MAP, "one")["data"] == {"a": "2"}  # type: ignore[index]  # it is there


def test_a_slow_server_is_waited_for(api: KubeApi, cluster: Cluster) -> None:
    """One second is nothing."""
    api.faults.append(Fault(on("GET", "pods"), delay=1.0))
    assert cluster.get(POD, "x") is None


def test_a_token_file_is_read_again_when_its_token_has_expired(api: KubeApi, tmp_path: Path) -> None:
    """As the kubelet renews it: no restart, no failure."""
    token = tmp_path / "token"
    token.write_text("sesame")
    cluster = Cluster("fake", "default", kubeconfig(tmp_path, api, {"tokenFile": str(token)}))
    assert cluster.get(POD, "x") is None
    api.tokens = {"mellon"}
    token.write_text("mellon")
    assert cluster.get(POD, "x") is None


def test_an_exec_plugin_is_asked_for_a_new_token(api: KubeApi, tmp_path: Path) -> None:
    """As cloud providers give them: each lasts for minutes, whatever it says of itself."""
    plugin = tmp_path / "plugin"
    credential = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}'
    plugin.write_text(f"#!/bin/sh\nprintf '{credential}' $(cat {tmp_path}/now)\n")
    plugin.chmod(0o755)
    (tmp_path / "now").write_text("sesame")
    exec_ = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(plugin),
        "interactiveMode": "Never",
        "provideClusterInfo": False,
    }
    cluster = Cluster("fake", "default", kubeconfig(tmp_path, api, {"exec": exec_}))
    assert cluster.get(POD, "x") is None
    api.tokens = {"mellon"}
    (tmp_path / "now").write_text("mellon")
    assert cluster.get(POD, "x") is None


def test_credentials_that_stay_refused_are_said_so(api: KubeApi, cluster: Cluster) -> None:
    """Once read again they are the same: a person must log in."""
    api.tokens = set()
    with pytest.raises(Permanent, match="does not know who asks") as caught:
        cluster.get(POD, "x")
    assert "log in" in caught.value.hint
    assert len(api.requests) == 2


def test_what_one_may_not_do_is_told_with_the_command_that_asks(api: KubeApi, cluster: Cluster) -> None:
    """Verb, kind, namespace: what whoever gives roles wants to know."""
    api.denied.add(("patch", "rollouts"))
    with pytest.raises(Permanent, match="patch rollouts demand in namespace default") as caught:
        cluster.patch(ROLLOUT, "demand", {"spec": {}})
    assert "kubectl auth can-i patch rollouts.argoproj.io -n default" in caught.value.hint
    assert not cluster.may("patch", ROLLOUT)
    assert cluster.may("get", ROLLOUT)


def test_a_context_that_is_not_there_is_a_matter_of_the_config(api: KubeApi, tmp_path: Path) -> None:
    """The kubeconfig is named, and what to look at."""
    with pytest.raises(UsageError, match="cluster prod cannot be opened"):
        Cluster("prod", "default", kubeconfig(tmp_path, api)).get(POD, "x")


def test_long_lists_come_in_pages_and_begin_again_when_they_expire(
    api: KubeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is missing and nothing comes twice."""
    monkeypatch.setattr("tidegate.core.kube._PAGE", 3)
    for number in range(8):
        api.write(CONFIG_MAP, config(f"c{number}"))

    def forget_once(method: str, path: str) -> bool:
        if "continue" in path and not api.forgotten:
            api.forget()
        return False

    api.faults.append(Fault(forget_once, times=1000))
    names = [one["metadata"]["name"] for one in cluster.list(CONFIG_MAP)]
    assert names == [f"c{number}" for number in range(8)]
    assert sum("continue" in one for one in api.requests) == 3


def test_a_watch_survives_what_networks_and_servers_do(api: KubeApi, cluster: Cluster) -> None:
    """Cut connections, a forgotten history, a busy server in between: the newest state comes, each once."""
    api.write(CONFIG_MAP, config("one", a="0"))
    api.cut_watches_after += [0, 1, 1]

    def change() -> None:
        for number in range(1, 6):
            time.sleep(0.25)
            if number == 3:
                api.faults.append(Fault(on("GET", "configmaps"), 503))
                api.forget()
            api.write(CONFIG_MAP, config("one", a=str(number)))

    writer = threading.Thread(target=change)
    writer.start()
    seen = []
    for one in cluster.watch(CONFIG_MAP, {}, seconds=15):
        seen.append(one["data"]["a"])
        if seen[-1] == "5":
            break
    writer.join()
    assert seen == sorted(set(seen)), "once each, in order"
    assert seen[0] == "0"


def test_what_went_while_nobody_watched_is_told_when_the_watch_is_back(api: KubeApi, cluster: Cluster) -> None:
    """A new list shows what is missing in it."""
    api.write(CONFIG_MAP, config("one"))
    seen = []
    for one in cluster.watch(CONFIG_MAP, {}, seconds=10):
        gone = "deletionTimestamp" in one["metadata"]
        seen.append(gone)
        if gone:
            break
        with api.lock:
            api._drop(CONFIG_MAP, "default", "one")
            api.forget()
    assert seen == [False, True]


def test_a_watch_ends_in_time(cluster: Cluster) -> None:
    """Whether anything happens or not."""
    begun = time.monotonic()
    assert list(cluster.watch(SECRET, {}, seconds=1.0)) == []
    assert 0.9 < time.monotonic() - begun < 4


def test_logs_go_on_where_they_were_cut(api: KubeApi, cluster: Cluster) -> None:
    """No line is lost, none comes twice, though the server can only begin with a whole second."""
    api.write(POD, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}})
    api.logs["p", "main"] = [(f"2026-01-01T00:00:0{n // 4}.{n:09d}Z", f"line {n}") for n in range(10)]
    api.cut_logs_after += [3, 2]
    assert list(cluster.logs("p", "main", follow=True)) == [f"line {n}" for n in range(10)]
    with pytest.raises(Conflict, match="There is no"):
        list(cluster.logs("q", "main", follow=False))


def test_threads_share_a_cluster(api: KubeApi, cluster: Cluster) -> None:
    """Each change arrives, however many write."""

    def write(number: int) -> None:
        cluster.apply(config(f"c{number}", a=str(number)))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert len(api.all(CONFIG_MAP)) == 8
