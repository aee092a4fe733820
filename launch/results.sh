#!/usr/bin/env bash
# The evidence: every method of configs/methods.py on the General Social Survey 2018 with
# SmolLM2-135M-Instruct, scored on questions and on personas that training has not seen.
# Run it again to go on where it stopped.
#
#   bash launch/results.sh [-o OUTPUT] [-u UNSEEN] [-s SEEDS] [-m METHODS] [-e EPOCHS] [-n STEPS] \
#     [-- FIELD ...]
#
# OUTPUT defaults to runs/results, UNSEEN to "questions personas", SEEDS to "0 1 2", METHODS to all
# but base, adprompt and subpop. A report is made of the SEEDS and METHODS named, so do seed 0 first where time is
# short and name more later: what is complete (has a run.json) is skipped.
# EPOCHS is 6 if not given, STEPS ends every training early, FIELDs, such as --config.data.min_n=20,
# are for training and evaluation both: with others than before, take another OUTPUT.
# The tables are in OUTPUT/UNSEEN/report. For a try of some minutes:
#
#   bash launch/results.sh -o runs/try -s 0 -m "paper kl" -n 2 -- \
#     "--config.data.questions=('natspac', 'natenvir', 'natheal', 'nateduc')"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

output=runs/results
unseen="questions personas"
seeds="0 1 2"
methods="paper paper-joint anchor effect kl wasserstein dsa joint"
epochs=
steps=
while getopts "o:u:s:m:e:n:" option; do
  case $option in
    o) output=${OPTARG%/} ;;
    u) unseen=$OPTARG ;;
    s) seeds=$OPTARG ;;
    m) methods=$OPTARG ;;
    e) epochs=$OPTARG ;;
    n) steps=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))

# What training must not see. The questions are the same ones for every seed.
holdout_of() {
  case $1 in
    questions) echo question:0.3@0 ;;
    personas) echo persona:paper ;;
    *)
      echo "-u $1: there are questions and personas" >&2
      exit 2
      ;;
  esac
}
for each in $unseen; do
  holdout_of "$each" >/dev/null
done

# Scores METHOD into a directory, unless that is done; more fields may follow.
score() {
  local method=$1 directory=$2
  shift 2
  [ -f "$directory/run.json" ] ||
    python -m ace_jax.evaluate --config "configs/evaluate.py:methods:$method" \
      --workdir "$directory" --config.data.holdout="$holdout" "$@"
}

for each in $unseen; do
  holdout=$(holdout_of "$each") here=$output/$each

  score base "$here/base" "$@"
  score adprompt "$here/adprompt" "$@"
  runs=(--run "base=$here/base" --run "adprompt=$here/adprompt")

  for seed in $seeds; do
    fields=(--config.seed="$seed" "$@")
    for method in $methods; do
      trained=$here/$method-$seed
      [ -f "$trained/scored/run.json" ] ||
        python -m ace_jax.train --config "configs/methods.py:$method${epochs:+@$epochs}" \
          --workdir "$trained/train" --config.data.holdout="$holdout" \
          ${steps:+--config.max_steps="$steps"} "${fields[@]}"
      score "$method" "$trained/scored" --config.adapter.path="$trained/train/adapter" \
        "${fields[@]}"
    done
  done
  for method in $methods; do
    for seed in $seeds; do
      runs+=(--run "$method=$here/$method-$seed/scored")
    done
  done

  # Flat: of the unseen questions some are alone in their topic, and nested means count topics alike.
  python -m ace_jax.report "${runs[@]}" --average flat --output "$here/report"
done
