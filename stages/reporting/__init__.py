"""Artifacts -> the plain values that a report page shows (`stages.report_page.model`).

`gather` is the only door; every other module makes one part of the page.
"""
