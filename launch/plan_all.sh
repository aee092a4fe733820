#!/usr/bin/env bash
# Plans every variant of configs/llama3.py. docs/scaling.md shows the results.
#
#   bash launch/plan_all.sh [OUTPUT [VARIANT...]]
#
# Writes OUTPUT/VARIANT.txt and .json (OUTPUT defaults to runs/plan) and prints one table.
# Needs the `tpu` extra but no TPU. Each variant takes minutes to compile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

output=${1:-runs/plan}
declare -A topology=(
  [8b-v5e-4]=v5e:2x2
  [8b-v5e-16]=v5e:4x4
  [8b-v6e-8]=v6e:2x4
  [8b-h100-2]=h100:2
  [70b-v5p-64]=v5p:4x4x4
  [70b-v6e-64]=v6e:8x8
)
variants=("${@:2}")
if [ ${#variants[@]} -eq 0 ]; then
  variants=(8b-v5e-4 8b-v5e-16 8b-v6e-8 8b-h100-2 70b-v5p-64 70b-v6e-64)
fi

mkdir -p "$output"
for variant in "${variants[@]}"; do
  rm -f "$output/$variant.json"
  python -m ace_jax.plan --config "configs/llama3.py:$variant" --topology "${topology[$variant]}" \
    --json "$output/$variant.json" > "$output/$variant.txt"
done
python - "$output" "${variants[@]}" <<'PYTHON'
import json
import sys
from pathlib import Path

print("| variant | base | temporaries | peak, GB | TFLOP | sent, GB | ms a step | pairs a second | |")
print("|---|---|---|---|---|---|---|---|---|")
for variant in sys.argv[2:]:
    train = json.loads((Path(sys.argv[1]) / f"{variant}.json").read_text())
    row = [
        f"`{variant}`",
        f"{train['arguments']['base'] / 1e9:.1f}",
        f"{train['temporaries'] / 1e9:.1f}",
        f"{train['peak'] / 1e9:.1f}",
        f"{train['flops'] / 1e12:,.0f}",
        f"{train['sent'] / 1e9:.2f}",
        f"{max(train['seconds'].values()) * 1e3:,.0f}",
        f"{train['pairs_per_second']:,.0f}",
        "fits" if train["verdict"].startswith("fits") else "does not fit",
    ]
    print(f"| {' | '.join(row)} |")
PYTHON
