#!/usr/bin/env bash
# The study of EQLS 2011: what configs/eqls.py learns, beside the loss without effects, a placebo and
# tables of averages. Run it again to go on where it stopped.
#
#   bash launch/results_eqls.sh [-o OUTPUT] [-s SEEDS] [-m ARMS] [-- FIELD ...]
#
# OUTPUT defaults to runs/eqls, SEEDS to "0 1 2", ARMS to "placebo joint kl"; there are fold1 to fold5
# too, which hold out every question in turn. Reports compare with the first arm; folds have
# OUTPUT/folds-SEED.csv instead. FIELDs, such as --config.max_steps=20, are for training. The placebo learns from answers
# whose countries and levels are drawn anew for each question, and is scored on the true ones.
# OUTPUT/report_train is of what training saw, OUTPUT/report_held_out of what it did not; blocks.csv
# in them has the tables.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

output=runs/eqls
seeds="0 1 2"
arms="placebo joint kl"
while getopts "o:s:m:" option; do
  case $option in
    o) output=${OPTARG%/} ;;
    s) seeds=$OPTARG ;;
    m) arms=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))

for seed in $seeds; do
  for arm in $arms; do
    run=$output/$arm-$seed config=configs/eqls.py data=() scored=()
    case $arm in
      joint) ;;
      kl | fold[1-5]) config=configs/eqls.py:$arm ;;
      placebo)
        [ -d "$run-data" ] ||
          python benchmarks/placebo.py --survey eqls2011 --seed "$seed" --output "$run-data"
        data=(--config.data.path="$run-data")
        scored=(--config.data.path=eqls2011 --allow-mismatch=survey)
        ;;
      *)
        echo "-m $arm: there are joint, kl, placebo and fold1 to fold5" >&2
        exit 2
        ;;
    esac
    [ -d "$run/adapter" ] ||
      python -m ace_jax.train --config "$config" --workdir "$run" --config.seed="$seed" \
        "${data[@]}" "$@"
    for part in train held_out; do
      [ -f "$run/$part/run.json" ] ||
        python -m ace_jax.evaluate --adapter "$run/adapter" --workdir "$run/$part" \
          --config.data.split="$part" --config.data.granularity=1 "${scored[@]}"
    done
  done
done

for part in train held_out; do
  runs=()
  for arm in $arms; do
    for seed in $seeds; do
      [[ $arm == fold* ]] || runs+=(--run "$arm=$output/$arm-$seed/$part")
    done
  done
  [ ${#runs[@]} -eq 0 ] ||
    python -m ace_jax.report "${runs[@]}" --average flat --output "$output/report_$part"
done
for seed in $seeds; do
  folds=()
  for arm in $arms; do
    [[ $arm != fold* ]] || folds+=("$output/$arm-$seed/held_out")
  done
  [ ${#folds[@]} -eq 0 ] || python benchmarks/folds.py --output "$output/folds-$seed.csv" "${folds[@]}"
done
