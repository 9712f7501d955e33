"""Benchmarks: data-set folders in, figures with intervals out.

>>> from difffake.evaluation import EvaluationSettings, Layout, evaluate, write    # doctest: +SKIP
>>> settings = EvaluationSettings(layout=Layout.FFPP, root=folder, cache=cache)     # doctest: +SKIP
>>> write(evaluate(settings, detector), markdown=Path("report.md"))                 # doctest: +SKIP
"""

from difffake.evaluation.bootstrap import Resampling, paired_difference, performance
from difffake.evaluation.layouts import FAKE, REAL, Item, Layout, Listing, Region, list_items
from difffake.evaluation.metrics import auc, eer, roc, tpr_at_fpr
from difffake.evaluation.outcome import EvaluationReport, EvaluationSettings
from difffake.evaluation.protocol import EvaluationProtocol, Level, Subject
from difffake.evaluation.recompress import Codec, Recompression, recompress
from difffake.evaluation.report import compare, to_json, to_markdown, write
from difffake.evaluation.run import Progress, evaluate, features_id

__all__ = [
    "FAKE",
    "REAL",
    "Codec",
    "EvaluationProtocol",
    "EvaluationReport",
    "EvaluationSettings",
    "Item",
    "Layout",
    "Level",
    "Listing",
    "Progress",
    "Recompression",
    "Region",
    "Resampling",
    "Subject",
    "auc",
    "compare",
    "eer",
    "evaluate",
    "features_id",
    "list_items",
    "paired_difference",
    "performance",
    "recompress",
    "roc",
    "to_json",
    "to_markdown",
    "tpr_at_fpr",
    "write",
]
