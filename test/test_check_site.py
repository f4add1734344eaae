"""What `make docs` checks of the built site beside the links that MkDocs checks."""

import pytest

from tools.check_site import main, problems


@pytest.mark.parametrize(
    ('page', 'found'),
    [
        ('<script src="https://cdn.example/a.js"></script>', 'loads https://cdn.example/a.js'),
        ('<link rel="stylesheet" href="//fonts.example/a.css">', 'loads //fonts.example/a.css'),
        ('<img src="gone.png">', 'gone.png, which is not there'),
        ('<span class="arithmatex">x</span>', 'did not become MathML'),
        ('<a href="https://arxiv.org">paper</a><img src="data:image/png;base64,AA">', ''),
    ],
)
def test_a_page_loads_nothing_from_elsewhere(tmp_path, page, found):
    (tmp_path / 'index.html').write_text(page)
    said = problems(tmp_path)
    assert bool(said) == bool(found)
    assert not found or found in said[0]
    assert main([str(tmp_path)]) == bool(found)


def test_styles_load_nothing_from_elsewhere(tmp_path):
    (tmp_path / 'a.css').write_text('@font-face { src: url(https://fonts.example/a) }')
    assert problems(tmp_path) == ['a.css: loads something from another site']
    assert main([str(tmp_path)]) == 2  # it has no index.html
