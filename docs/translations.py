"""The Spanish catalogues of the tutorial: checked, or refreshed from the English pages.

``python docs/translations.py check TEMPLATES`` compares ``docs/locales/es`` with the templates that
Sphinx's gettext builder wrote. A catalogue must translate every text of its page, have no text
that is marked as fuzzy, and none that the page no longer has. ``refresh`` writes the new texts
into the catalogues, for a translator.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from babel.messages.pofile import read_po
from sphinx_intl.basic import update

if TYPE_CHECKING:
    from babel.messages.catalog import Catalog, Message

LOCALES = Path(__file__).parent / "locales"
TRANSLATED = "generated/tutorial"
"""The pages that there are in Spanish."""

ROLES = re.compile(r":[a-z:]+:`[^`]*`|``[^`]+``")
"""Formulas, links and code, which a translation must keep; a link's title may change."""


def catalogue(path: Path) -> Catalog:
    """Read a catalogue or a template."""
    with path.open("rb") as file:
        return read_po(file)


def texts(found: Catalog) -> dict[str, Message]:
    """Return the messages by their English text, without the header."""
    return {str(message.id): message for message in found if message.id}


def kept(text: str) -> list[str]:
    """Return what a translation must have too: formulas, code, and the targets of links."""
    parts = [re.sub(r"`[^`<]*<([^`>]+)>`", r"`\1`", part) for part in ROLES.findall(text)]
    return sorted(parts)


def faults_of(name: str, template: Catalog, found: Catalog) -> list[str]:
    """Return what is wrong with a catalogue, each as a line."""
    wanted, have = texts(template), texts(found)
    faults = [f"obsolete: {text}" for text in found.obsolete]
    faults += [f"not on the page: {text}" for text in have.keys() - wanted.keys()]
    for text in wanted:
        message = have.get(text)
        if message is None or not message.string:
            faults.append(f"not translated: {text}")
        elif message.fuzzy:
            faults.append(f"fuzzy: {text}")
        elif kept(text) != kept(str(message.string)):
            faults.append(f"formulas, links or code differ: {text}")
    return [f"{name}: {' '.join(fault.split())[:110]}" for fault in faults]


def faults(templates: Path, locales: Path = LOCALES) -> list[str]:
    """Compare all catalogues with their templates."""
    catalogues = locales / "es" / "LC_MESSAGES"
    names = {
        path.relative_to(folder).with_suffix("").as_posix()
        for folder, kind in ((templates, "pot"), (catalogues, "po"))
        for path in (folder / TRANSLATED).glob(f"*.{kind}")
    }
    found = []
    for name in sorted(names):
        template, own = templates / f"{name}.pot", catalogues / f"{name}.po"
        if not template.exists():
            found.append(f"{name}: a catalogue without a page")
        elif not own.exists():
            found.append(f"{name}: a page without a catalogue")
        else:
            found += faults_of(name, catalogue(template), catalogue(own))
    return found


def refresh(templates: Path, locales: Path = LOCALES) -> None:
    """Write the templates' new texts into the catalogues; changed ones are marked as fuzzy."""
    for extra in templates.rglob("*.pot"):
        if TRANSLATED not in extra.relative_to(templates).as_posix():
            extra.unlink()
    update(str(locales), str(templates), ["es"], line_width=100, ignore_obsolete=True)


def main(mode: str, templates: str) -> int:
    """Check or refresh; return 1 where a check found a fault."""
    if mode == "refresh":
        refresh(Path(templates))
        return 0
    found = faults(Path(templates))
    for fault in found:
        print(fault)
    print(f"Spanish catalogues: {len(found)} faults")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
