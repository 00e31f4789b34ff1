"""`make k8s-local`: the rendered manifests played by podman on one machine, without a cluster."""
