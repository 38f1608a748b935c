"""The annotation layouts that are read: one small parser each.

Reads and writes nothing. `LAYOUTS` is consulted by `stages.benchmarks.readers`, `KEY_LAYOUTS` by
`stages.benchmarks.answer_keys`.
"""

from stages.benchmarks.layouts import (
    custom,
    moments,
    multiple_choice,
    open_ended,
    retrieval,
    videos_to_choose,
)
from stages.benchmarks.layouts.layout import Layout

LAYOUTS: dict[str, Layout] = {
    **multiple_choice.LAYOUTS,
    **open_ended.LAYOUTS,
    **moments.LAYOUTS,
    **videos_to_choose.LAYOUTS,
    **retrieval.LAYOUTS,
    **custom.LAYOUTS,
}
"""Every layout by the name that manifests use."""
