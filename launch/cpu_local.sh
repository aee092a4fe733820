#!/usr/bin/env bash
# The main job on this machine's CPU: train an adapter, score the base model and the adapter on
# held-out questions, and set them side by side. Run it again to go on where it stopped.
#
#   bash launch/cpu_local.sh [EXPERIMENT [OUTPUT]]
#
# EXPERIMENT is a file of configs/ and its variant: quickstart (the default) or quickstart:smoke.
# OUTPUT defaults to runs/EXPERIMENT. Installs the project into the active virtual environment,
# or into .venv, which it makes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

experiment=${1:-quickstart}
name=${experiment%%:*}
output=${2:-runs/${experiment/:/-}}

if [ -z "${VIRTUAL_ENV:-}" ]; then
  [ -d .venv ] || python3 -m venv .venv
  . .venv/bin/activate
fi
if ! python -m pip show --quiet ace_jax 2>/dev/null; then
  echo "installing ace_jax into $VIRTUAL_ENV" >&2
  python -m pip install --quiet --editable .
fi

export JAX_PLATFORMS=cpu
set -a
# shellcheck source=launch/flags/cpu.env
. launch/flags/cpu.env
set +a
python -m ace_jax.train --config "configs/$name.py${experiment#"$name"}" --workdir "$output/train"
python -m ace_jax.evaluate --config "configs/evaluate.py:$experiment" --workdir "$output/base"
# The adapter's record says everything else: survey, hold-out, prompt, base model.
python -m ace_jax.evaluate --adapter "$output/train/adapter" --workdir "$output/trained"
# Flat: of the unseen questions some are alone in their topic, and nested means count topics alike.
python -m ace_jax.report --run base="$output/base" --run trained="$output/trained" --average flat \
  --output "$output/report"
