"""Configuration of the documentation, which builds without a network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

import skecg  # noqa: E402

project = "skecg"
author = "The skecg developers"
copyright = "The skecg developers, Apache-2.0"
version = release = skecg.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "pages",
]
exclude_patterns = ["_build", "extensions", "**/.ipynb_checkpoints"]
templates_path = ["_templates"]
default_role = "code"

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False

# The gallery runs the examples. The demo writes files where it stands, and benchmarks take long.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"(demo\.py|benchmarks)",
    "nested_sections": False,
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 10**6,
    "write_computation_times": False,
    "backreferences_dir": None,
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "skecg"
html_static_path = ["_static"]
html_css_files = ["skecg.css"]
html_show_sourcelink = False
html_copy_source = False
# Pages without pages below them need no list of these.
html_sidebars = {
    page: []
    for page in (
        "quickstart",
        "inputs",
        "caching",
        "converting",
        "fine_tuning",
        "pretraining",
        "command_line",
        "models",
        "project",
    )
}
html_theme_options = {
    "footer_start": ["research-use"],
    "footer_end": ["copyright"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "header_links_before_dropdown": 10,
    "navbar_align": "left",
}
