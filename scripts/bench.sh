#!/usr/bin/env bash
# Runs the benchmarks that need nothing but this repository: scripts/bench.sh BIN [--full]
set -euo pipefail
bin=$1
full=${2:-}
mkdir -p benchmarks/results
"$bin/python" benchmarks/density.py --threads 1 --out benchmarks/results/density
# With a crop store in CROPS the engines are held to the parity gate too.
"$bin/python" benchmarks/engine_speed.py ${CROPS:+--store "$CROPS"} --out benchmarks/results/engine_speed
"$bin/python" scripts/fetch_clips.py .cache/clips
"$bin/python" benchmarks/metrics.py --clip .cache/clips/WolfgangLanger_Pexels.mp4 --out benchmarks/results/metrics
# The pipeline: Apache Kafka (Java 17, Maven); a quiet machine.
"$bin/python" benchmarks/pipeline.py --out benchmarks/results $full
# The live wall: Apache Kafka and Chromium; rewrites the figures and pictures of docs/wall.md.
"$bin/python" benchmarks/wall.py --out benchmarks/results/wall --minutes "$([ -n "$full" ] && echo 30 || echo 3)" --screens docs \
  --page docs/wall.md
if [ -x "$bin/py-spy" ]; then
  "$bin/python" benchmarks/pipeline_profile.py --out benchmarks/results
fi
# The detectors' table needs a folder of videos of people: name it in CLIPS. It rewrites docs/detectors.md.
if [ -n "${CLIPS:-}" ]; then
  "$bin/python" benchmarks/detectors.py --clips "$CLIPS" --per-clip 3
fi
