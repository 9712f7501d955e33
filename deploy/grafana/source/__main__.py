"""Write the Grafana dashboards: python deploy/grafana/source FOLDER

JSON of dashboards is long and alike; here a panel is a few lines. What a panel may ask for stands in
stream/metrics/catalogue.py and deploy/prometheus/rules/recording.yml, and tests/deploy holds it to them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engineers import engineers
from operators import operators

for name, made in (("operators", operators()), ("engineers", engineers())):
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    (Path(sys.argv[1]) / f"{name}.json").write_text(text)
