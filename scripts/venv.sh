#!/usr/bin/env bash
# Makes .venv and installs this project into it with the extras named: scripts/venv.sh PYTHON EXTRAS
set -euo pipefail
python=$1 extras=$2

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "error: '$python' is missing or older than Python 3.11. Name another: make PYTHON=/path/to/python3.12" >&2
  exit 1
fi
if [ ! -x .venv/bin/python ]; then
  # Debian splits venv from Python; install the missing half where we may, else name it.
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      echo "Installing python$version-venv ..."
      apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "python$version-venv" >/dev/null
    else
      echo "error: Python's venv module is missing. Install it: sudo apt-get install python$version-venv" >&2
      exit 1
    fi
  fi
  echo "Making .venv with $("$python" --version) ..."
  "$python" -m venv .venv
fi
echo "Installing difffake[$extras] into .venv ..."
.venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade uv
.venv/bin/uv pip install --quiet --python .venv/bin/python --editable ".[$extras]"
