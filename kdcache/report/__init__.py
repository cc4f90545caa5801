"""Results -> tables, figures, one HTML page. Reads what runs wrote; needs no model and no torch."""

from kdcache.report.compare import Comparison, compare

__all__ = ["Comparison", "compare"]
