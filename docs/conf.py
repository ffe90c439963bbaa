"""How `make docs` builds the site. Every warning is an error: a link that leads nowhere breaks the build."""

import re
from pathlib import Path
from typing import Any

from napari_glacier import __version__

ROOT = Path(__file__).resolve().parents[1]

project = "napari-glacier"
author = "napari-glacier developers"
version = release = __version__
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "napari-glacier"
html_favicon = "../napari_glacier/icons/glacier.svg"
html_show_copyright = False
html_copy_source = False
# Links to headings, as hosts of repositories make them.
myst_heading_anchors = 3
# Shells, YAML and plain text are told by the fence; what has none is text.
highlight_language = "text"
pygments_dark_style = "github-dark"

# A page of the repository stands on the site where a page of docs/ consists of a link to it.
_STANDS_FOR = re.compile(r"^\[[^\]]*\]\(\.\./([A-Z]+\.md)\)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def bring_in_repository_pages(app: Any, docname: str, source: list[str]) -> None:
    """Put README, CONTRIBUTING and CHANGELOG where a page stands for them."""

    def text_of(match: re.Match[str]) -> str:
        path = ROOT / match[1]
        app.env.note_dependency(str(path))
        return _LINK.sub(lambda link: f"]({_from_docs(link[1])})", path.read_text(encoding="utf-8"))

    source[0] = _STANDS_FOR.sub(text_of, source[0])


def _from_docs(target: str) -> str:
    """A link of the repository's root as docs/ has it."""
    if "://" in target or target.startswith("#"):
        return target
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return _PAGES.get(target, f"../{target}")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", bring_in_repository_pages)
