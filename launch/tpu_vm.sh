#!/usr/bin/env bash
# Trains on a Cloud TPU slice: installs this repository on its workers and runs the same command on
# all of them. The TPU exists already; gcloud is set up on this machine.
#
#   bash launch/tpu_vm.sh TPU ZONE EXPERIMENT WORKDIR [--config.FIELD=VALUE ...]
#
# WORKDIR is a directory that all workers have mounted (Filestore, or a bucket through gcsfuse).
# Run it again to go on where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ $# -lt 4 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 1
fi
tpu=$1 zone=$2 experiment=$3 workdir=$4
name=${experiment%%:*}
config=configs/$name.py${experiment#"$name"}

on_all() {
  gcloud compute tpus tpu-vm ssh "$tpu" --zone "$zone" --worker=all --command "$1"
}

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$tpu:ace_jax.tar.gz" --zone "$zone" --worker=all
on_all 'mkdir -p ace_jax && tar -xzf ace_jax.tar.gz -C ace_jax && cd ace_jax &&
  { [ -d .venv ] || python3 -m venv .venv; } && .venv/bin/pip install --quiet --editable ".[tpu]"'

# Quoted for the workers' shells.
arguments=$(printf '%q ' --config "$config" --workdir "$workdir" \
  --config.distributed.initialize=True "${@:5}")
on_all "cd ace_jax && . .venv/bin/activate && set -a && . launch/flags/tpu.env && set +a &&
  python launch/preflight.py --workdir $(printf '%q' "$workdir") --distributed &&
  exec python -m ace_jax.train $arguments"
