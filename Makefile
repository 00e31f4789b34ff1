# Every target sets up what it needs. Ports and STATE_DIR come from the environment or the
# command line: `make up GATEWAY_PORT=9080 STATE_DIR=/somewhere`.
SHELL := /bin/bash
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
VENV := .venv
TRITON_VENV := .venv-triton
CHECKOV_VENV := .venv-checkov
# The server's environment needs numpy<2, so CPython 3.13 is out of its reach.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
RUN := $(VENV)/bin/python -m
STACK := $(RUN) platform_assets.local_stack
# uv installs sources alone: where this stands in the environment, each of the hundreds of
# interpreters that a run starts would compile all that it imports again.
unexport PYTHONDONTWRITEBYTECODE

# have(test command, Debian packages): as root the packages are installed, otherwise named.
define have
	@{ $(1); } >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing $(2)"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2); } >/dev/null; \
	  else \
	    echo "Missing on this machine: $(2). Install it, on Debian or Ubuntu with: sudo apt-get install $(2)" >&2; exit 1; \
	  fi; }
endef

.PHONY: help up demo chain down status test lint bench k8s k8s-local lock system-python system-kubectl system-test system-podman clean

help: ## what can be done here
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

up: $(VENV)/.run $(TRITON_VENV)/.run ## start the platform, take raw data to production, stay up until Ctrl-C
	@$(STACK) up

demo: $(VENV)/.run $(TRITON_VENV)/.run ## the same, headless: print the proof, exit 0 or 1, leave nothing running
	@$(STACK) demo

chain: $(VENV)/.run ## take a model of the running platform to production: make chain MODEL=cars
	@MODEL=$(MODEL) $(STACK) chain

down: $(VENV)/.run ## stop what `make up` started
	@$(STACK) down

status: $(VENV)/.run ## what runs, and what is in production
	@$(STACK) status

test: system-kubectl system-test system-podman $(VENV)/.dev $(TRITON_VENV)/.run $(CHECKOV_VENV)/.run ## all that CI runs, on a fresh machine too
	$(RUN) pytest -n 4 --dist loadfile

lint: $(VENV)/.dev ## formatting, style, types, import arrows
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports

bench: system-test $(VENV)/.dev $(TRITON_VENV)/.run ## the gateway against raw Triton and its own bounds, the pipeline by rows, and whole chains, on this machine
	$(RUN) tests.benchmarks
	$(RUN) tests.benchmarks.scale
	$(RUN) tests.benchmarks.chains

k8s: system-kubectl $(VENV)/.dev $(TRITON_VENV)/.run $(CHECKOV_VENV)/.run ## render and check every Kubernetes overlay; needs kubectl
	@for overlay in local staging production; do \
	  kubectl kustomize k8s/overlays/$$overlay >/dev/null && echo "k8s/overlays/$$overlay renders" || exit 1; done
	$(RUN) pytest -q tests/manifests

k8s-local: system-kubectl system-podman $(VENV)/.run ## play the Kubernetes manifests by podman: containers to production, Triton lost and back; needs root and kubectl
	@$(RUN) tests.manifests.local

lock: $(VENV)/.dev ## bring the lock files in line with pyproject.toml; UPGRADE=--upgrade for newer versions
	$(call compile,pyproject.toml --extra gateway --extra tracing --extra pipeline --extra dev -o requirements-dev.lock.txt)
	$(call compile,pyproject.toml --extra gateway --extra pipeline -c requirements-dev.lock.txt -o requirements.lock.txt)
	$(call compile,pyproject.toml --extra gateway -c requirements-dev.lock.txt -o requirements-gateway.lock.txt)
	$(call compile,pyproject.toml --extra gateway --extra feast --extra samples --extra tracing -c requirements-dev.lock.txt -o requirements-gateway-features.lock.txt)
	$(call compile,--group triton -o requirements-triton.lock.txt)
	$(call compile,--group checkov -o requirements-checkov.lock.txt)

compile = $(VENV)/bin/uv pip compile -q $(UPGRADE) --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command "make lock" $(1)

clean: ## remove the environments (the state in .local stays)
	rm -rf $(VENV) $(TRITON_VENV) $(CHECKOV_VENV)

system-python:
	$(call have,[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import ensurepip$(,)venv',python3 python3-venv libpython3-dev)

system-test:
	$(call have,command -v redis-server,redis-server)
	$(call have,command -v chromium,chromium)
	$(call have,command -v wrk,wrk)
	$(call have,command -v haproxy,haproxy)
	$(call have,command -v prometheus,prometheus)

system-kubectl:
	@command -v kubectl >/dev/null || { echo "Missing on this machine: kubectl 1.28 or later, which no Debian package" \
	  "brings. Install it as https://kubernetes.io/docs/tasks/tools/ says." >&2; exit 1; }

system-podman:
	$(call have,type podman runc catatonit mmdebstrap iptables && test -x /usr/lib/podman/aardvark-dns,podman runc catatonit netavark aardvark-dns iptables mmdebstrap debian-archive-keyring)

, := ,

# An environment is complete when its stamp is newer than its lock file.
define environment
	@echo "installing $@ from $(2)"
	@python=$(PYTHON); [ -n "$$python" ] || python=python3; \
	  [ -x $(1)/bin/python ] || $$python -m venv $(1)
	@[ -x $(1)/bin/uv ] || $(1)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(1)/bin/uv pip install --quiet --python $(1)/bin/python --require-hashes -r $(2)
	@touch $@
endef

$(VENV)/.run: requirements.lock.txt | system-python
	$(call environment,$(VENV),$<)

$(VENV)/.dev: requirements-dev.lock.txt | system-python
	$(call environment,$(VENV),$<)
	@touch $(VENV)/.run

$(TRITON_VENV)/.run: requirements-triton.lock.txt | system-python
	$(call environment,$(TRITON_VENV),$<)

$(CHECKOV_VENV)/.run: requirements-checkov.lock.txt | system-python
	$(call environment,$(CHECKOV_VENV),$<)
