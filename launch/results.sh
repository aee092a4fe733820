#!/usr/bin/env bash
# The evidence: every method of configs/methods.py on the General Social Survey 2018 with
# SmolLM2-135M-Instruct, scored on questions and on personas that training has not seen, beside
# references that need no model. Run it again to go on where it stopped.
#
#   bash launch/results.sh [-o OUTPUT] [-s SEEDS] [-m METHODS] [-n STEPS] [-- FIELD ...]
#
# OUTPUT defaults to runs/results, SEEDS to "0 1 2", METHODS to all that are trained. STEPS ends every
# training early. FIELDs, such as --config.data.min_n=20, are for training and evaluation both. What
# is complete (has a run.json) is skipped, so take another OUTPUT for other STEPS or FIELDs.
# For a try of some minutes:
#
#   bash launch/results.sh -o runs/try -s 0 -m "ace forward-kl" -n 2 -- \
#     "--config.data.questions=('natspac', 'natenvir', 'natheal', 'nateduc')"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

output=runs/results
seeds="0 1 2"
methods="anchor-only causal-only ace ace-joint ace-shrunk forward-kl wasserstein"
steps=
while getopts "o:s:m:n:" option; do
  case $option in
    o) output=$OPTARG ;;
    s) seeds=$OPTARG ;;
    m) methods=$OPTARG ;;
    n) steps=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))

# Most runs compile the same programs.
mkdir -p "$output/compiled"
compiled=$(cd "$output/compiled" && pwd)
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$compiled}

# Scores METHOD into a directory, unless that is done; more fields may follow.
score() {
  local method=$1 directory=$2
  shift 2
  [ -f "$directory/run.json" ] ||
    python -m ace_jax.evaluate --config "configs/evaluate.py:methods:$method" \
      --workdir "$directory" --config.data.holdout="$holdout" "$@"
}

case " $methods " in
  *" ace-shrunk "*)
    [ -d runs/gss2018-shrunk ] ||
      python -m ace_jax.prepare --source gss2018 --estimator shrunk --output runs/gss2018-shrunk
    ;;
esac

# What training must not see. The questions are the same ones for every seed.
for unseen in questions=question:0.3@0 personas=persona:paper; do
  holdout=${unseen#*=} here=$output/${unseen%%=*} runs=()
  # An audit asks four times over, in ways that share less: once a method, on questions.
  case $holdout in question*) audited=${seeds%% *} ;; *) audited= ;; esac

  score base "$here/base" ${audited:+--config.audit=True} "$@"
  score adprompt "$here/adprompt" "$@"
  runs+=(--run "base=$here/base" --run "adprompt=$here/adprompt")

  for method in $methods; do
    for seed in $seeds; do
      run=$here/$method-$seed audit=
      [ "$seed" != "$audited" ] || audit=True
      fields=(--config.seed="$seed" "$@")
      [ -f "$run/scored/run.json" ] ||
        python -m ace_jax.train --config "configs/methods.py:$method" --workdir "$run/train" \
          --config.data.holdout="$holdout" ${steps:+--config.max_steps="$steps"} "${fields[@]}"
      score "$method" "$run/scored" --config.adapter.path="$run/train/adapter" \
        ${audit:+--config.audit=True} "${fields[@]}"
      runs+=(--run "$method-$seed=$run/scored")
    done
  done

  for reference in uniform mean no_effect; do
    score base "$here/$reference" --config.reference="$reference" "$@"
    runs+=(--run "$reference=$here/$reference")
  done

  python -m ace_jax.report "${runs[@]}" --output "$here/report"
done
