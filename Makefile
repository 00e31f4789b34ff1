# Every target sets up what it needs. Ports and STATE_DIR come from the environment or the
# command line: `make up GATEWAY_PORT=9080 STATE_DIR=/somewhere`.
SHELL := /bin/bash
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
VENV := .venv
TRITON_VENV := .venv-triton
# The server's environment needs numpy<2, so CPython 3.13 is out of its reach. The system's own comes
# first where it has all that is needed: distributions build theirs with optimizations, which one
# that was compiled by hand often lacks (a seventh of all CPU time), and Triton finds its libpython.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
COMPLETE := import ctypes, ensurepip, sysconfig, venv; ctypes.CDLL(sysconfig.get_config_var("INSTSONAME"))
PYTHON ?= $(shell for p in /usr/bin/python3.12 /usr/bin/python3.11 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c '$(SUPPORTED)' 2>/dev/null && \
	case $$p in (/usr/bin/*) $$p -c '$(COMPLETE)' 2>/dev/null;; esac && { echo $$p; break; }; done)
RUN := $(VENV)/bin/python -m
STACK := $(RUN) platform_assets.local_stack
# uv installs sources alone: where this stands in the environment, each of the hundreds of
# interpreters that a run starts would compile all that it imports again.
unexport PYTHONDONTWRITEBYTECODE
# The processes of the tests share the cores: threads of OpenMP in each would wait for each other.
test test-fast: export OMP_NUM_THREADS := 1
# As pip and curl do, trust the certificates of this machine, a proxy's among them.
export UV_SYSTEM_CERTS := 1

# have(test command, Debian packages): as root the packages are installed, otherwise named.
define have
	@{ $(1); } >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing $(2)"; set -o pipefail; \
	    apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(2) \
	      | { grep --line-buffered -E '^(Need to get|Get:)' || true; }; \
	  else \
	    echo "Missing on this machine: $(2). Install it, on Debian or Ubuntu with: sudo apt-get install $(2)" >&2; exit 1; \
	  fi; }
endef

# What a person types reaches commands by the environment alone, as it was typed: make would take
# a $ in it for a variable of its own, and pasted into a line, the shell would run parts of it.
define as_typed
override $(1) := $$(value $(1))
export $(1)
endef
ASKED := MODEL VERSION VERIFY CSV TARGET NAME KEY TIME TASK SEPARATOR ENTITY CLIENT
$(foreach name,$(ASKED),$(if $(filter command,$(origin $(name))),$(eval $(call as_typed,$(name)))))

# What the command line says, not what the environment happens to have: typed(variable) is whether
# it says that, option(variable, flag) the option of a command.
typed = $(and $(filter override,$(origin $(1))),$(value $(1)))
option = $(if $(call typed,$(1)),--$(2) "$$$(1)")

.PHONY: help up demo release-demo model check chain passport erase down status test test-fast dev lint bench faults k8s k8s-local lock system-python system-openmp system-programs system-podman system-test clean

help: ## what can be done here
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

up: $(VENV)/.run $(TRITON_VENV)/.run ## start the platform, take raw data to production, stay up until Ctrl-C
	@$(STACK) up

demo: $(VENV)/.run $(TRITON_VENV)/.run ## the same, headless: print the proof, exit 0 or 1, leave nothing running
	@$(STACK) demo

release-demo: $(VENV)/.run $(TRITON_VENV)/.run ## releases of a small model, on a stack of its own: one goes to production, two are stopped; three minutes
	@$(STACK) release-demo

model: $(VENV)/.run ## make a model file from a table: make model CSV=patients.csv TARGET=readmitted
	@$(RUN) platform_assets.components new "$$CSV" --target "$$TARGET" $(call option,NAME,name) \
	  $(call option,KEY,key) $(call option,TIME,time) $(call option,TASK,task) $(call option,SEPARATOR,separator)

check: $(VENV)/.run ## check all model files, those of MODELS_DIR too, and the columns of their sources
	@$(STACK) check

chain: $(VENV)/.run ## take a model of the running platform to production: make chain MODEL=cars; without MODEL best_model
	@$(STACK) chain

passport: $(VENV)/.run ## what is recorded of a version, signed: make passport MODEL=cars VERSION=3; VERIFY=1 or VERIFY=passport.json compares
	@$(foreach name,VERIFY KEY,$(if $(call typed,$(name)),,unset $(name);)) $(STACK) passport

erase: $(VENV)/.run ## erase an entity from a prediction log: make erase MODEL=cars ENTITY=17 (or CLIENT=ada)
	@SAMPLES_DIR="$${SAMPLES_DIR:-$${STATE_DIR:-.local}/samples}" \
	  GATEWAY_STATE_DIR="$${GATEWAY_STATE_DIR:-$${STATE_DIR:-.local}/gateway}" \
	  $(RUN) platform_assets.prediction_log erase $(if $(value CLIENT),--client="$$CLIENT") \
	  -- "$$MODEL" $(if $(value ENTITY),"$$ENTITY")

down: $(VENV)/.run ## stop what `make up` started
	@$(STACK) down

status: $(VENV)/.run ## what runs, and what is in production
	@$(STACK) status

test: system-test $(VENV)/.compiled $(TRITON_VENV)/.run ## all that CI runs, on a fresh machine too
	$(RUN) pytest -n 5 --dist loadfile

test-fast: $(VENV)/.dev ## the tests that start no server, without the slow ones: in one or two minutes
	$(RUN) pytest -q -n 3 --dist worksteal -m "not slow" tests/unit tests/contract

dev: $(VENV)/.dev ## install the tools of tests, benchmarks and style checks, and nothing else

lint: $(VENV)/.dev ## formatting, style, types, import arrows
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports

bench: system-programs $(VENV)/.dev $(TRITON_VENV)/.run ## the gateway against raw Triton and its own bounds, the pipeline by rows, and whole chains, on this machine
	$(RUN) tests.benchmarks
	$(RUN) tests.benchmarks.scale
	$(RUN) tests.benchmarks.scoring
	$(RUN) tests.benchmarks.outcomes
	$(RUN) tests.benchmarks.chains

faults: system-programs $(VENV)/.dev $(TRITON_VENV)/.run ## the long forms of the fault and abuse cases, two at a time, in about an hour
	$(RUN) tests.faults --at-once 2

k8s: $(VENV)/.dev $(TRITON_VENV)/.run ## render and check every Kubernetes overlay
	@for overlay in local staging production; do \
	  $(VENV)/bin/kubectl kustomize k8s/overlays/$$overlay >/dev/null && echo "k8s/overlays/$$overlay renders" || exit 1; done
	$(RUN) pytest -q tests/manifests

k8s-local: system-podman $(VENV)/.dev ## play the Kubernetes manifests by podman: containers to production, Triton lost and back; needs root
	@$(RUN) tests.manifests.local

lock: $(VENV)/.dev ## bring the lock files in line with pyproject.toml; UPGRADE=--upgrade for newer versions
	$(call lock,requirements-dev,pyproject.toml --extra gateway --extra tracing --extra pipeline --extra boosting --extra dev)
	$(call lock,requirements,pyproject.toml --extra gateway --extra pipeline --extra boosting -c requirements-dev.lock.txt)
	$(call lock,requirements-gateway,pyproject.toml --extra gateway -c requirements-dev.lock.txt)
	$(call lock,requirements-gateway-features,pyproject.toml --extra gateway --extra feast --extra samples --extra tracing -c requirements-dev.lock.txt)
	$(call lock,requirements-triton,--group triton)

# lock(name, what it holds): every version with the hashes of the files that it can be installed from.
define lock
	@echo "locking $(1).lock.txt"
	@$(compile) $(UPGRADE) --generate-hashes --no-annotate --custom-compile-command "make lock" $(2) -o $(1).lock.txt
	@folder=$$(mktemp -d) && trap "rm -r $$folder" EXIT && \
	  $(compile) --format pylock.toml $(2) -c $(1).lock.txt -o $$folder/pylock.toml && \
	  $(VENV)/bin/python .ci/prune_hashes.py $(1).lock.txt $$folder/pylock.toml
endef
compile = $(VENV)/bin/uv pip compile -q --universal --python-version 3.11

clean: ## remove the environments (the state in .local stays)
	rm -rf $(VENV) $(TRITON_VENV)

system-python:
	$(call have,if [ -n "$(PYTHON)" ]; then $(PYTHON) -c 'import ensurepip$(,)venv'; else command -v python3; fi,python3 python3-venv libpython3-dev)

# LightGBM brings no OpenMP of its own; without it all else works.
system-openmp:
	-$(call have,test "$$(uname)" != Linux || /sbin/ldconfig -p | grep 'libgomp\.so\.1',libgomp1)

system-programs:
	$(call have,command -v redis-server,redis-server)
	$(call have,command -v chromium,chromium)
	$(call have,command -v wrk,wrk)
	$(call have,command -v haproxy,haproxy)
	$(call have,command -v prometheus,prometheus)

system-podman:
	$(call have,type podman runc catatonit mmdebstrap iptables && test -x /usr/lib/podman/aardvark-dns,podman runc catatonit netavark aardvark-dns iptables mmdebstrap debian-archive-keyring)

# Without root the tests go without what is missing, and say so.
ifeq ($(shell id -u),0)
system-test: system-programs system-podman
else
system-test:
endif

, := ,

# install(environment, lock file): uv names large packages with their sizes, and at the end counts
# what it installed. Its other counts differ: of downloads, and of lines that are for other systems.
define install
	@echo "installing $(2) into $(1)"
	@set -o pipefail; $(VENV)/bin/uv pip install --python $(1)/bin/python --no-deps --require-hashes -r $(2) 2>&1 \
	  | { grep --line-buffered -vE '^( [-+~] |Using Python|Resolved |Prepared |Checked )' || true; }
endef

# An environment is complete when its stamp is newer than its lock file.
$(VENV)/.run: requirements.lock.txt | $(VENV)/bin/uv
	$(call install,$(VENV),$<)
	@touch $@

# In a fresh environment each process of the tests would compile the same at the same time.
$(VENV)/.compiled: $(VENV)/.dev
	@echo "compiling what the tests import"
	@$(RUN) tests.faults.zygote </dev/null >/dev/null 2>&1 & $(RUN) pytest -q --collect-only >/dev/null 2>&1; wait
	@touch $@

$(VENV)/.dev: requirements-dev.lock.txt | $(VENV)/bin/uv
	$(call install,$(VENV),$<)
	@touch $@ $(VENV)/.run

$(TRITON_VENV)/.run: requirements-triton.lock.txt | $(VENV)/bin/uv
	@$(VENV)/bin/uv venv --quiet --allow-existing --no-python-downloads --python $(VENV)/bin/python $(TRITON_VENV)
	$(call install,$(TRITON_VENV),$<)
	@touch $@

$(VENV)/bin/uv: | system-python system-openmp
	@[ -n "$(PYTHON)" ] || { echo "This needs Python 3.11 or 3.12, and here is $$(python3 --version 2>&1). Nothing was installed." \
	  "Install one of them beside it, with its shared library, and name it: make up PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "creating $(VENV) on $$($(PYTHON) --version)" && $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
