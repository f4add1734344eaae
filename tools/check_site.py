"""Check the built documentation site: what a page loads lies in the site, equations are MathML.

    python tools/check_site.py site

MkDocs checks links between pages (`strict`); this checks what a browser would load by itself.
"""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
import sys
from urllib.parse import unquote, urlsplit

# Attributes that make a browser load something. The href of an <a> is only followed by a person.
LOADED = {'src', 'srcset', 'data', 'poster'}
STYLESHEETS = {'stylesheet', 'icon', 'preload', 'modulepreload', 'preconnect', 'dns-prefetch'}


class Page(HTMLParser):
    """What a page loads, and whether TeX is left in it."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.has_tex = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what the tag loads."""
        values = {name: value or '' for name, value in attrs}
        self.loaded += [value for name, value in values.items() if name in LOADED and value]
        if tag == 'link' and STYLESHEETS & set(values.get('rel', '').split()):
            self.loaded.append(values.get('href', ''))
        self.has_tex = self.has_tex or 'arithmatex' in values.get('class', '')


def problems(site: Path) -> list[str]:
    """Everything wrong with the pages of a site, one line each."""
    found: list[str] = []
    for path in sorted(site.rglob('*.html')):
        page = Page()
        page.feed(path.read_text(encoding='utf-8'))
        where = path.relative_to(site)
        if page.has_tex:
            found.append(f'{where}: an equation did not become MathML')
        for target in page.loaded:
            parts = urlsplit(target)
            if parts.scheme == 'data':
                continue
            local = site if parts.path.startswith('/') else path.parent
            if parts.scheme or parts.netloc:
                found.append(f'{where}: loads {target} from another site')
            elif not (local / unquote(parts.path.lstrip('/'))).exists():
                found.append(f'{where}: loads {target}, which is not there')
    for path in sorted(site.rglob('*.css')):
        text = path.read_text(encoding='utf-8')
        if 'url(http' in text or 'url(//' in text or '@import' in text:
            found.append(f'{path.relative_to(site)}: loads something from another site')
    return found


def main(arguments: list[str]) -> int:
    """Print the problems of the site in `arguments`; returns the exit code."""
    site = Path(arguments[0])
    if not (site / 'index.html').is_file():
        print(f'{site}: no site; build it with `make docs`', file=sys.stderr)
        return 2
    found = problems(site)
    print('\n'.join(found), file=sys.stderr, end='\n' if found else '')
    return 1 if found else 0


if __name__ == '__main__':
    raise SystemExit(main(sys.argv[1:]))
