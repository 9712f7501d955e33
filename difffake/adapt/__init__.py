"""A door for labelled fakes: a small supervised head on the frozen embedding, judged by what it has not seen.

>>> from difffake.adapt import AdaptSettings, adapt                                  # doctest: +SKIP
>>> settings = AdaptSettings(real=(real,), fake=(fake,), cache=cache)                # doctest: +SKIP
>>> adapt(settings, detector, out).transfer.helps                                    # doctest: +SKIP
"""

from difffake.adapt.outcome import AdaptReport, AdaptSettings, Transfer, Use
from difffake.adapt.report import to_json, to_markdown, write
from difffake.adapt.run import adapt

__all__ = ["AdaptReport", "AdaptSettings", "Transfer", "Use", "adapt", "to_json", "to_markdown", "write"]
