#!/usr/bin/env bash
# Puts Debian's promtool and prometheus into .cache/prometheus, without root and without installing anything:
# scripts/prometheus.sh    Prints their folder. Those of the PATH serve where there are any.
set -euo pipefail
cd "$(dirname "$0")/.."
if command -v promtool >/dev/null && command -v prometheus >/dev/null; then
  dirname "$(command -v promtool)"
  exit
fi
into=.cache/prometheus
if [ ! -x "$into/usr/bin/promtool" ]; then
  if ! command -v apt-get >/dev/null; then
    echo "error: no apt-get to fetch Debian's package prometheus with; put promtool and prometheus on the PATH" >&2
    exit 1
  fi
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  # The system's package lists where it has any, else lists of our own: only root may renew those of the system.
  mkdir -p "$scratch"/lists/partial "$scratch"/archives/partial
  own=(-o "Dir::State::Lists=$scratch/lists" -o "Dir::Cache=$scratch")
  cd "$scratch"
  apt-get -qq -o APT::Sandbox::User= download prometheus 2>/dev/null \
    || { apt-get -qq -o APT::Sandbox::User= "${own[@]}" update && apt-get -qq -o APT::Sandbox::User= "${own[@]}" download prometheus; } >&2
  cd - >/dev/null
  mkdir -p .cache
  dpkg -x "$scratch"/prometheus_*.deb "$scratch/tree"
  rm -rf "$into"
  mv "$scratch/tree" "$into"
fi
echo "$into/usr/bin"
