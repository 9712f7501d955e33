#!/usr/bin/env bash
# Makes .venv and installs this project into it with the extras named: scripts/venv.sh PYTHON EXTRAS
set -euo pipefail
python=$1 extras=$2

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "error: '$python' is missing or older than Python 3.11. Name another: make PYTHON=/path/to/python3.12" >&2
  exit 1
fi
# What an interrupted run left is made anew, packages included: half a package looks like a whole one to the installers.
unfinished=.venv/unfinished again=() anew=()
if [ -e "$unfinished" ]; then
  again=(--ignore-installed) anew=(--reinstall)
fi
if [ -e "$unfinished" ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
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
  mkdir -p .venv
  touch "$unfinished"
  "$python" -m venv .venv
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
fi
touch "$unfinished"
echo "Installing difffake[$extras] into .venv ..."
.venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade ${again[@]+"${again[@]}"} uv
.venv/bin/uv pip install --quiet --python .venv/bin/python ${anew[@]+"${anew[@]}"} --editable ".[$extras]"
rm "$unfinished"
