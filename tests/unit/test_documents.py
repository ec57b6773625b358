"""The links of the entry page, which Sphinx does not see; those between the pages are its own to check."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def anchors(page: pathlib.Path) -> set[str]:
    """What a forge makes of the headings."""
    headings = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading).strip().lower().replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('name', ['README.md', 'CHANGELOG.md'])
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r'\]\((?!https?:)([^)]*)\)', (ROOT / name).read_text())
    for link in links:
        path, _, anchor = link.partition('#')
        page = ROOT / (path or name)
        assert page.is_file(), link
        assert not anchor or anchor in anchors(page), link


def test_every_page_is_named_in_the_guide() -> None:
    pages = {path.name for path in (ROOT / 'doc').glob('*.md')} - {'index.md'}
    guide = (ROOT / 'doc' / 'index.md').read_text()
    assert {page for page in pages if f']({page}' not in guide} == set()
