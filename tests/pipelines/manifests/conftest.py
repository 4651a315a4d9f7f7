"""The fixture of `kube_world`."""

from kube_world import world  # noqa: F401 - pytest finds it here
