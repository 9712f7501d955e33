"""Runs a compiled network: faces in, embeddings out. Knows nothing of video, streams or scores."""

import os
import sys

# Nothing here tells anybody outside what a worker does. Both runtimes would, unless told before their first import:
# ONNX Runtime from 1.29 on keeps an identifier of the machine and reports what it runs to its maker
# (https://github.com/microsoft/onnxruntime/pull/27379); whoever wants that sets ORT_DISABLE_TELEMETRY=0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenVINO (where it is imported) and NNCF report to Google Analytics by this package, and do without where it is not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
