#!/bin/bash
# Succeeds when the server is live and every version that a persisted configuration names is READY.
# A model of which no version is READY counts only where no other model serves: Triton answers once
# it has tried to load all, so that model does not come by itself. The alerts name it, and the
# pipeline gives back what can be given back. An empty repository is ready: the pipeline must reach
# the server to load its first version. A candidate that is being judged, or that failed, stands in
# no configuration and does not count.
# Needs bash alone, so it runs in every image that holds a Triton.
set -uo pipefail

repository=${MODEL_REPOSITORY:-/models}
port=${TRITON_HTTP_PORT:-8000}

answers_ok() { # path
  local status
  exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
  printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
  read -r -t 2 _ status _ <&3 || status=none
  exec 3<&- 3>&-
  [[ $status == 200 ]]
}

named_versions() { # config.pbtxt: the numbers of version_policy { specific { versions: ... } }
  local text
  text=$(<"$1")
  [[ ${text//[$'\n\t']/ } =~ specific\ *:?\ *\{([^}]*)\} ]] || return 0
  grep -oE '[0-9]+' <<<"${BASH_REMATCH[1]}"
}

answers_ok /v2/health/live 2>/dev/null || { echo "Triton does not answer on port $port"; exit 1; }
serving='' missing=() failed=()
for config in "$repository"/*/config.pbtxt; do
  [[ -f $config ]] || continue
  model=${config%/config.pbtxt}
  model=${model##*/}
  ready='' lost=()
  # Without a policy of specific versions Triton serves the highest; then the model itself is asked.
  versions=$(named_versions "$config")
  for version in ${versions:-any}; do
    path=/v2/models/$model/versions/$version/ready
    if answers_ok "${path/versions\/any\//}"; then
      ready=yes
    else
      lost+=("$model version $version")
    fi
  done
  serving+=$ready
  if [[ -n $ready ]]; then missing+=("${lost[@]}"); else failed+=("${lost[@]}"); fi
done
[[ -n $serving ]] || missing+=("${failed[@]}")
((${#missing[@]} == 0)) && exit 0
printf 'not READY: %s\n' "${missing[@]}"
exit 1
