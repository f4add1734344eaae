"""Tables as Markdown, their places in pages, and figures as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
import re
from typing import Any


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [heads, ['---'] * len(heads), *rows]
    return ['| ' + ' | '.join(cells) + ' |' for cells in lines]


def without_nan(value: Any) -> Any:
    """NaN as None, all the way down: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def replace_table(text: str, name: str, table: str) -> str:
    """Put a table between `<!-- name -->` and `<!-- /name -->`. Raises ValueError without them."""
    pattern = rf'(<!-- {name} -->\n).*?(<!-- /{name} -->)'
    if not re.search(pattern, text, re.DOTALL):
        raise ValueError(f'the text has no <!-- {name} --> ... <!-- /{name} -->')
    return re.sub(pattern, lambda found: found[1] + table + found[2], text, flags=re.DOTALL)
