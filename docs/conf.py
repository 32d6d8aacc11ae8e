"""Sphinx configuration: `make docs`. Nothing here or in the pages needs a network."""

import os
import shutil
import sys
from pathlib import Path

from jupyter_cache import get_cache

import deepviz

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

from executed import outputs_key  # noqa: E402

# pages run beside each other, so each with one thread
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "DeepViz"
release = deepviz.__version__
copyright = "the DeepViz authors"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "catalog_pages", "docstrings", "mathml"]
exclude_patterns = ["_build", "jupyter_execute"]
nitpicky = False

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

# the outputs of a page's cells are stored until its code changes, or the code that it runs
stored = DOCS / "_build" / "executed" / outputs_key(Path(deepviz.__file__).parent, DOCS / "examples")
for outdated in {*stored.parent.glob("*")} - {stored}:
    shutil.rmtree(outdated)
get_cache(stored).db  # noqa: B018  created here: processes that read pages in parallel would each create it
nb_execution_mode = "cache"
nb_execution_cache_path = str(stored)
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
