#!/usr/bin/env bash
# From faces to a bundle, as the shipped model is made: scripts/train_default.sh BIN DATA OUT [MINUTES]
# DATA holds lfw.tar, ffhq600.tar, london.tar and clips/ (see docs/model-card.md). What OUT has already is kept, and a training
# that was stopped goes on. START=extractor.onnx begins with the weights of an exported network instead of ImageNet's.
set -euo pipefail
bin=$1 data=$2 out=$3 minutes=${4:-60}
shares=(--clip-shares 0.5 0.05 0.45)
mkdir -p "$out"
[ -d "$out/store" ] || "$bin/difffake" crops "$data/lfw.tar" "$data/ffhq600.tar" "$data/london.tar" "$data/clips/" --out "$out/store"
[ -d "$out/store/generator" ] || "$bin/difffake" train-generator "$out/store" --minutes 20 "${shares[@]}"
start=()
[ -z "${START:-}" ] || start=(--set "start=$START")
"$bin/difffake" train "$out/store" --out "$out/run" --minutes "$minutes" "${shares[@]}" "${start[@]}" \
  --set lr=0.0003 --set video_share=0.25 --set sharp_share=0.4 --set captured=0.5 --set rank_weight=0.5 \
  --set validate_every=0 --set validate_crops=192
"$bin/difffake" fit "$out/store" "$out/run" --out "$out/fitted" --overwrite "${shares[@]}" --name difffake-lite0 --licence Apache-2.0 \
  --data "LFW, 600 FFHQ portraits, London Set, 42 clips: see the model card"
[ -f "$out/identity.onnx" ] || "$bin/python" scripts/make_identity.py --out "$out/identity.onnx"
"$bin/difffake" fit-identity "$out/store" "$data/clips/" --bundle "$out/fitted" --identity "$out/identity.onnx" --out "$out/bundle" --overwrite
# Labelled swaps side by side with their originals, where there are any: two heads on the finished network.
[ ! -d "$data/swaps" ] || "$bin/difffake" adapt --data "side-by-side=$data/swaps" --series --pseudo-fakes "$out/store" "${shares[@]}" \
  --pseudo-share 0.25 --towards-logit 3 --anchor-pseudo-share 0.5 --bundle "$out/bundle" --out "$out/adapted" --overwrite --markdown "$out/adapted.md"
"$bin/python" scripts/judge_extractors.py "$out/store" difffake/models/default/extractor.onnx "$out/bundle/extractor.onnx"
