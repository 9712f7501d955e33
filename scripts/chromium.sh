#!/usr/bin/env bash
# Puts Debian's headless Chromium into .cache/chromium with the libraries that this system lacks, without root and
# without installing anything: scripts/chromium.sh    Prints the program. One of the PATH serves where there is any.
set -euo pipefail
cd "$(dirname "$0")/.."
for name in chromium-headless-shell chromium chromium-browser google-chrome; do
  if command -v "$name"; then
    exit
  fi
done
into=$PWD/.cache/chromium
if [ ! -x "$into/run" ]; then
  if ! command -v apt-get >/dev/null; then
    echo "error: no apt-get to fetch Debian's chromium-headless-shell with; put chromium on the PATH" >&2
    exit 1
  fi
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  # The system's package lists where it has any, else lists of our own: only root may renew those of the system.
  mkdir -p "$scratch"/lists/partial "$scratch"/archives/partial
  apt=(apt-get -qq -o APT::Sandbox::User= -o Debug::NoLocking=1)
  wanted() { "${apt[@]}" install --no-install-recommends --print-uris chromium-headless-shell 2>/dev/null | sed -n "s/^'[^']*' \([^_]*\)_.*/\1/p"; }
  packages=$(wanted) || true
  if [ -z "$packages" ] || ! (cd "$scratch" && "${apt[@]}" download $packages 2>/dev/null); then
    apt+=(-o "Dir::State::Lists=$scratch/lists" -o "Dir::Cache=$scratch")
    "${apt[@]}" update >&2
    packages=$(wanted)
    (cd "$scratch" && "${apt[@]}" download $packages >&2)
  fi
  for package in "$scratch"/*.deb; do
    dpkg -x "$package" "$scratch/tree"
  done
  shell=$(find "$scratch/tree/usr/lib" -type f -perm -u+x \( -name headless_shell -o -name chromium-headless-shell -o -name headless-shell \) | head -1)
  [ -n "$shell" ] || { echo "error: the package holds no headless Chromium" >&2; exit 1; }
  libraries=$into/usr/lib/$(uname -m)-linux-gnu
  cat > "$scratch/tree/run" <<RUN
#!/bin/sh
export LD_LIBRARY_PATH="$libraries:$libraries/pulseaudio"
exec "$into${shell#"$scratch/tree"}" "\$@"
RUN
  chmod +x "$scratch/tree/run"
  mkdir -p .cache
  rm -rf "$into"
  mv "$scratch/tree" "$into"
fi
echo "$into/run"
