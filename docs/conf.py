"""Sphinx configuration: `make docs`. Nothing here or in the pages needs a network."""

import os
import sys
from pathlib import Path

from deepviz import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

# pages run beside each other, so each with one thread
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "DeepViz"
release = __version__
copyright = "the DeepViz authors"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "catalog_pages", "docstrings", "mathml"]
exclude_patterns = ["_build", "jupyter_execute"]
nitpicky = False

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove-warn"

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_rtype = False
napoleon_custom_sections = ["Errors"]

html_theme = "furo"
html_title = "DeepViz"
html_static_path = ["_static"]
html_css_files = ["deepviz.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_theme_options = {"footer_icons": []}
