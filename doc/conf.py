"""How the documents are built: ``sphinx-build -W -b html doc OUT`` (the extra ``docs`` has what it needs)."""

import os_interface_ext

project = 'os-interface-ext'
copyright = 'the authors of os-interface-ext'
version = release = os_interface_ext.__version__

extensions = ['myst_parser']
# The pages are Markdown that a forge shows as well: nothing that this builder alone understands, save the list of
# all pages at the end of the index.
source_suffix = {'.md': 'markdown'}
exclude_patterns = ['_build']
# As forges do: each heading is an anchor, called like itself.
myst_heading_anchors = 4

html_theme = 'furo'
html_title = f'os-interface-ext {version}'
html_copy_source = False
html_show_sphinx = False
