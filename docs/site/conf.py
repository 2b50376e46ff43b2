"""How Sphinx builds the documentation site from what `stage.py` has laid out. ADR 32 says why it is done so."""

from __future__ import annotations

project = "Skafos"
author = "The maintainers of Skafos"
# Read "© The maintainers of Skafos"; no year, so that the same pages are the same bytes in January.
project_copyright = author

extensions = ["myst_parser"]
# Anchors as a code host makes them, so that one link works on both.
myst_heading_anchors = 6
suppress_warnings = [
    "myst.header",  # a page may leave out a level of headings
    "misc.highlighting_failure",  # examples leave things out with "…"
]
highlight_language = "none"

html_theme = "furo"
html_title = "Skafos"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "top_of_page_buttons": [],
    # The dashboard's colours.
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#7fb4f0", "color-brand-content": "#7fb4f0"},
}
