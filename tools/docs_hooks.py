"""MkDocs hooks: pages kept at the root of the repository, and equations as MathML.

MathML is part of HTML, so that equations need neither a script nor a font of another site.
"""

from __future__ import annotations

import html
from pathlib import Path
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# Page of the site -> the file of the repository that is its one home.
PAGES = {
    'contributing.md': 'CONTRIBUTING.md',
    'changelog.md': 'CHANGELOG.md',
    'experiments.md': 'experiments/LOG.md',
    'starter_weights.md': 'weights/README.md',
}
_EQUATION = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</(?:span|div)>', re.DOTALL
)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are kept outside docs/."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding='utf-8')
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_context: Any) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    pages = {'README.md': 'index.md', **{source: page for page, source in PAGES.items()}}
    for source, page in pages.items():
        markdown = re.sub(rf'\]\((?:\.\./)*{re.escape(source)}', f']({page}', markdown)
    return re.sub(r'\]\((?:\.\./)*docs/', '](', markdown)


def on_page_content(content: str, **_context: Any) -> str:
    """Replace the TeX of every equation by MathML."""
    return _EQUATION.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    display = 'block' if found[1] == 'div' else 'inline'
    return convert(html.unescape(found[2]), display=display)
