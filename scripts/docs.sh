#!/usr/bin/env bash
# Rewrites what in docs/ is made from code: scripts/docs.sh BIN
# The contact sheets need a crop store with faces that may be shown; name it in FACES (made by `difffake crops`).
set -euo pipefail
bin=$1
if [ -n "${FACES:-}" ]; then
  "$bin/difffake" contact-sheet "$FACES" --out docs/pseudofakes --people "${PEOPLE:-london/}"
else
  echo "docs/pseudofakes: left as it is; FACES names no crop store (see difffake crops --help)"
fi
"$bin/python" scripts/command_help.py docs/commands.md
"$bin/python" scripts/schema.py docs/schema
"$bin/python" scripts/metrics_page.py docs/metrics.md
"$bin/python" deploy/grafana/source deploy/grafana/dashboards
