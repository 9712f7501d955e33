"""A scan as one HTML file that needs nothing else: no script, no request, printable, light and dark."""

from difffake.report.html import anchor_in_words, render_report

__all__ = ["anchor_in_words", "render_report"]
