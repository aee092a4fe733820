#!/usr/bin/env bash
# Trains on this machine's two GPUs, a process a GPU (the paper's setting).
#
#   bash launch/gpu_2x.sh [EXPERIMENT [WORKDIR [--config.FIELD=VALUE ...]]]
#
# EXPERIMENT is a file of configs/ and its variant, ace by default; WORKDIR defaults to
# runs/EXPERIMENT/train. Each process writes WORKDIR.logs/RANK.log; process 0's is also shown. Run
# it again to go on where it stopped; TERM or Ctrl-C saves first, and the exit status is then 42.
# FLAGS names a file of launch/flags (h100 by default). JAX_PLATFORMS=cpu tries it without a GPU.
# Where one process dies the other is killed after GRACE seconds, 60 by default.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

experiment=${1:-ace}
workdir=${2:-runs/${experiment/:/-}/train}
name=${experiment%%:*}
logs=$workdir.logs
processes=2
grace=${GRACE:-60}
mkdir -p "$logs"
set -a
# shellcheck source=launch/flags/h100.env
. "launch/flags/${FLAGS:-h100}.env"
set +a

free_port() {
  python -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
}

# Runs a command once a GPU, each with its own log; the status is that of the first that fails.
# Where one dies, the others may wait for it for minutes before jax ends them: they get GRACE seconds.
together() {
  local port rank pids=() shown status=0 ended until=
  port=$(free_port)
  for ((rank = 0; rank < processes; rank++)); do
    CUDA_VISIBLE_DEVICES=$rank "$1" "localhost:$port" "$rank" "${@:2}" >> "$logs/$rank.log" 2>&1 &
    pids+=($!)
  done
  tail -n 0 -F --pid="${pids[0]}" "$logs/0.log" >&2 2> /dev/null &
  shown=$!
  trap 'kill -TERM "${pids[@]}" 2> /dev/null || true' TERM INT
  while [ "${#pids[@]}" -gt 0 ]; do
    sleep 0.5 || true  # Ctrl-C ends it, too
    for rank in "${!pids[@]}"; do
      if kill -0 "${pids[rank]}" 2> /dev/null; then continue; fi
      wait "${pids[rank]}" && ended=0 || ended=$?
      unset "pids[rank]"
      if [ "$status" -eq 0 ]; then status=$ended; fi
      if [ "$ended" -ne 0 ] && [ "$ended" -ne 42 ]; then until=${until:-$((SECONDS + grace))}; fi
    done
    if [ -n "$until" ] && [ "$SECONDS" -ge "$until" ]; then
      kill -KILL "${pids[@]}" 2> /dev/null || true
    fi
  done
  trap - TERM INT
  wait "$shown" || true
  return "$status"
}

preflight() {
  exec python launch/preflight.py --workdir "$workdir" --distributed \
    --coordinator "$1" --num-processes "$processes" --process-id "$2"
}

train() {
  exec python -m ace_jax.train --config "configs/$name.py${experiment#"$name"}" \
    --workdir "$workdir" --config.distributed.initialize=True \
    --config.distributed.coordinator="$1" --config.distributed.num_processes="$processes" \
    --config.distributed.process_id="$2" "${@:3}"
}

together preflight
together train "${@:3}"
