"""Finds the terms of objectives by name: those of this package, and those of installed packages.

A package offers terms by an entry point of the group `psd_depth_ros.terms` that names their
module or class.
"""

from __future__ import annotations

import difflib
from functools import cache
import importlib
from importlib.metadata import entry_points
import pkgutil

from psd_depth_ros import objectives
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.objectives.base import Term
from psd_depth_ros.parsing import shorten

GROUP = 'psd_depth_ros.terms'


def find_term(name: str) -> type[Term]:
    """The class of a term. Raises SettingsError for an unknown name, with the nearest one."""
    known = _known_terms()
    if name not in known:
        near = difflib.get_close_matches(shorten(name), known, n=1)
        hint = f'did you mean {near[0]!r}?' if near else f'known terms: {", ".join(sorted(known))}'
        raise SettingsError(f'unknown term {shorten(name)!r}; {hint}')
    return known[name]


def term_names() -> list[str]:
    """The names of all terms, sorted."""
    return sorted(_known_terms())


def _known_terms() -> dict[str, type[Term]]:
    _load_modules()
    found: dict[str, type[Term]] = {}
    pending = list(Term.__subclasses__())
    while pending:
        one = pending.pop()
        pending += one.__subclasses__()
        if hasattr(one, 'name'):
            found[one.name] = one
    return found


@cache
def _load_modules() -> None:
    """Import whatever defines terms, once."""
    for module in pkgutil.iter_modules(objectives.__path__):
        importlib.import_module(f'{objectives.__name__}.{module.name}')
    for entry in entry_points(group=GROUP):
        entry.load()
