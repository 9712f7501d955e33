#!/usr/bin/env bash
# Pins what images are made of, with hashes: scripts/lock.sh BIN [--upgrade]
# Versions that are pinned already stay, unless --upgrade is given. No package index's address gets into the files.
set -euo pipefail
bin=$1
shift
lock() { # NAME EXTRA...: what `pip install difffake[EXTRA,...]` installs, on every platform
  local out=deploy/requirements/$1.lock extras=()
  for extra in "${@:2}"; do extras+=(--extra "$extra"); done
  "$bin/uv" pip compile pyproject.toml "${extras[@]}" --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-package difffake --custom-compile-command "make lock" "${more[@]}" --output-file "$out"
}
more=("$@")
lock cpu wall otel
lock openvino wall otel openvino
lock gpu wall otel tensorrt
# What makes this project's wheel.
"$bin/python" - <<'PYTHON' >deploy/requirements/.build.in
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")
PYTHON
trap 'rm -f deploy/requirements/.build.in' EXIT
"$bin/uv" pip compile deploy/requirements/.build.in --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --custom-compile-command "make lock" "${more[@]}" --output-file deploy/requirements/build.lock
