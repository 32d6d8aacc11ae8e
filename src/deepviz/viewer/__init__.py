"""One viewer for the page, the report and the notebook: results are drawn in the browser, nothing is computed again."""

from deepviz.viewer.assets import bundle, static_files
from deepviz.viewer.notebook import compare
from deepviz.viewer.records import photograph, record, rows
from deepviz.viewer.reports import report, report_page

__all__ = ["bundle", "compare", "photograph", "record", "report", "report_page", "rows", "static_files"]
