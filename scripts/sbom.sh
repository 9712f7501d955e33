#!/usr/bin/env bash
# Writes a bill of materials (CycloneDX 1.6, JSON) of what an image holds: scripts/sbom.sh BIN LOCK OUT
# The environment that it is taken from is made from the lock alone, in .cache/sbom.
set -euo pipefail
bin=$1 lock=$2 out=$3
"$bin/uv" venv --quiet --clear --python "$bin/python" .cache/sbom
"$bin/uv" pip install --quiet --python .cache/sbom/bin/python --require-hashes --no-deps --requirements "$lock"
"$bin/uv" pip install --quiet --python .cache/sbom/bin/python --no-deps .
"$bin/uv" tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py environment .cache/sbom \
  --pyproject pyproject.toml --mc-type application --output-reproducible --spec-version 1.6 --of JSON --output-file "$out"
echo "$out: $("$bin/python" -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["components"]))' "$out") components"
