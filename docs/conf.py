"""Sphinx configuration: MyST pages, an executed notebook, doctests of pages and docstrings."""

import re
from importlib.metadata import version as installed_version
from pathlib import Path

project = "blackbox"
author = "The blackbox developers"
copyright = f"2026 {author}"
version = release = installed_version("blackbox-engine")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "jupyter_execute"]

html_theme = "furo"
html_title = f"blackbox {release}"

myst_enable_extensions = ["deflist"]
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 120

suppress_warnings = ["ref.python"]  # annotations name Program and Member, of which there are two kinds
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Doctests see the public package as users do, and run in a folder of their own.
doctest_global_setup = """
import os, tempfile
import numpy as np
import blackbox as bb
_folder = tempfile.TemporaryDirectory()
os.chdir(_folder.name)
"""
doctest_global_cleanup = """
os.chdir(os.path.dirname(_folder.name))
_folder.cleanup()
"""


def insert_figures(app, page, source):
    """Put a measured table, without its heading, where the page has a comment that names its file."""

    def table(comment):
        path = Path(app.srcdir).parent / comment[1]
        return path.read_text().partition("\n")[2] if path.exists() else "Not measured in this version."

    source[0] = re.sub(r"<!-- (bench/results/\w+\.md) -->", table, source[0])


def drop_aliases(app, what, name, obj, options, lines):
    """Fields of named tuples without a sentence of their own are listed without the interpreter's."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()


def setup(app):
    app.connect("source-read", insert_figures)
    app.connect("autodoc-process-docstring", drop_aliases)
