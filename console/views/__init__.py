"""What the pages show, made of what is known: one file for each page. Pure: nothing here reads or writes."""

from tidegate.console.views import drift, endpoints, labels, ledger, overview, quality, times, words

__all__ = ["drift", "endpoints", "labels", "ledger", "overview", "quality", "times", "words"]
