#!/bin/bash
# Become tritonserver with exactly the models whose configuration was persisted, that is, verified.
# Runs in NVIDIA's image and in ours; the model repository is mounted read-only.
set -euo pipefail

repository=${MODEL_REPOSITORY:-/models}
key=${TRITON_CONTROL_KEY:-}
# Triton's option splits at these characters and would lock nothing with such a key.
if [[ ${#key} -lt 16 || $key == *[\ :=,]* ]]; then
  echo "TRITON_CONTROL_KEY (key 'key' of the secret triton-control) must have 16 characters or more" \
    "and none of ' :=,'. Triton was not started; correct the secret and restart the pod." >&2
  exit 2
fi

models=()
for config in "$repository"/*/config.pbtxt; do
  [[ -f $config ]] || continue
  directory=${config%/config.pbtxt}
  models+=("--load-model=${directory##*/}")
done

locked=model-repository,model-config,shared-memory,logging,trace:triton-control-key=$key
exec tritonserver \
  --model-repository="$repository" \
  --model-control-mode=explicit \
  ${models[@]+"${models[@]}"} \
  --strict-readiness=false \
  --exit-on-error=false \
  --exit-timeout-secs="${TRITON_EXIT_TIMEOUT_SECONDS:-30}" \
  --http-address=0.0.0.0 \
  --http-port="${TRITON_HTTP_PORT:-8000}" \
  --grpc-address=0.0.0.0 \
  --grpc-port="${TRITON_GRPC_PORT:-8001}" \
  --allow-metrics=true \
  --allow-gpu-metrics="${TRITON_GPU_METRICS:-false}" \
  --metrics-address=0.0.0.0 \
  --metrics-port="${TRITON_METRICS_PORT:-8002}" \
  --http-restricted-api="$locked" \
  --grpc-restricted-protocol="$locked" \
  --log-format=ISO8601
