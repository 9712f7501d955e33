"""Runs a compiled network: faces in, embeddings out. Knows nothing of video, streams or scores."""

import os

# From 1.29 on ONNX Runtime keeps an identifier of the machine and reports what it runs to its maker, unless this stands
# in the environment before it is first imported (https://github.com/microsoft/onnxruntime/pull/27379). Nothing here
# tells anybody outside what a worker looks at. Whoever wants it otherwise sets ORT_DISABLE_TELEMETRY=0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
