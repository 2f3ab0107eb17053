"""Configuration of the documentation, which builds without a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

import skecg  # noqa: E402

project = "skecg"
author = "The skecg developers"
copyright = "The skecg developers, Apache-2.0"
version = release = skecg.__version__

html_baseurl = "https://skecg.github.io/skecg/"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "myst_parser",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxext.opengraph",
    "pages",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["_build", "extensions", "**/.ipynb_checkpoints"]
suppress_warnings = ["myst.header"]
templates_path = ["_templates"]
default_role = "code"

autosummary_generate = True
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Links to other projects' pages need their inventories from the network: only a build that is published fetches them.
is_published = bool(os.environ.get("SKECG_DOCS_ONLINE"))
intersphinx_mapping = {}
if is_published:
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "wfdb": ("https://wfdb.readthedocs.io/en/stable", None),
    }

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
    "backreferences_dir": "gallery/backreferences",
    "doc_module": ("skecg",),
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "skecg"
html_logo = html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["skecg.css"]
html_show_sourcelink = False
html_copy_source = False
# The first page stands above all sections: a list of neighbours beside it would be empty.
html_sidebars = {"index": []}
html_context = {
    "github_user": "skecg",
    "github_repo": "skecg",
    "github_version": "main",
    "doc_path": "docs",
    "default_mode": "auto",
}
html_theme_options = {
    "logo": {"text": "skecg"},
    "github_url": "https://github.com/skecg/skecg",
    "footer_start": ["research-use"],
    "footer_end": ["copyright"],
    "navbar_end": ["version-switcher", "theme-switcher", "navbar-icon-links"],
    "switcher": {"json_url": f"{html_baseurl}_static/switcher.json", "version_match": release},
    "check_switcher": False,
    "use_edit_page_button": True,
    # Pages that are written by the build have no file to edit.
    "secondary_sidebar_items": {
        "*": ["page-toc", "edit-this-page"],
        "api/index": ["page-toc", "edit-this-page"],
        "api/errors": ["page-toc"],
        "api/generated/*": ["page-toc"],
        "gallery/*": ["page-toc", "sg_download_links"],
        "cards/*": ["page-toc"],
        "decisions/*": ["page-toc", "edit-this-page"],
    },
    "show_prev_next": False,
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
}

# A card for each page where pages are published; elsewhere one picture for all, since the cards take half a minute.
ogp_site_url = html_baseurl
ogp_image = None if is_published else f"{html_baseurl}_static/landing.png"
ogp_image_alt = None if is_published else "An electrocardiogram beside a map of embeddings"
ogp_social_cards = {
    "enable": is_published,
    "image": "_static/landing.png",
    "image_mini": "_static/landing.png",
    "line_color": "#b3261e",
}
