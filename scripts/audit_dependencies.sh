#!/usr/bin/env bash
# What is known of the packages installed beside ace_jax: vulnerabilities (pip-audit) and licences.
#
#     bash scripts/audit_dependencies.sh [LICENCES.csv]
#
# Ends with status 1 where a vulnerability is known. Where pip-audit or the database of advisories
# cannot be reached, it says that nothing was audited and goes on.
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python=${PYTHON:-python}
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

echo "licences: package, version, licence"
"$python" - <<'PYTHON' | sort --ignore-case | tee "${1:-/dev/null}"
from importlib.metadata import distributions

for found in distributions():
    about = found.metadata
    classes = [one for one in about.get_all("Classifier") or () if one.startswith("License")]
    named = ", ".join(one.rpartition(" :: ")[2] for one in classes)
    told = about.get("License-Expression") or named or about.get("License") or "unknown"
    print(about["Name"], about["Version"], f'"{told.splitlines()[0][:80]}"', sep=",")
PYTHON

echo
if ! { "$python" -m venv "$scratch/venv" &&
  "$scratch/venv/bin/python" -m pip install --quiet pip-audit; } >"$scratch/said" 2>&1; then
  echo "vulnerabilities: NOT AUDITED, pip-audit cannot be installed ($(tail -1 "$scratch/said"))"
  exit 0
fi
audit() { "$scratch/venv/bin/pip-audit" --timeout 5 --progress-spinner off "$@"; }

# Where there is no database, pip-audit calls every package unknown and everything fine.
echo "jinja2==3.1.6" >"$scratch/one"
if ! audit --requirement "$scratch/one" --no-deps --disable-pip >"$scratch/found" 2>&1 ||
  grep -q "could not be audited" "$scratch/found"; then
  if ! grep -q "Found .* known vulnerabilit" "$scratch/found"; then
    echo "vulnerabilities: NOT AUDITED, the database of advisories cannot be reached"
    exit 0
  fi
fi
audit --path "$packages"
