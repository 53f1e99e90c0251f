"""One browser, and for each test a page of its own, signed in or not."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import browser as chromium
import page_lab
import pytest

MISSING = "needs a browser: apt-get install chromium"


@pytest.fixture(scope="session")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[chromium.Browser]:
    if chromium.PROGRAM is None:
        pytest.skip(MISSING)
    async with chromium.running(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
async def stranger(hub: Any, browser: chromium.Browser) -> AsyncIterator[chromium.Page]:
    """At the sign-in. Afterwards: nothing was asked of another place, no policy was violated,
    nothing threw."""
    page = await browser.page()
    await page.open(hub.url)
    await page.until("document.querySelector('#token') !== null")
    yield page
    assert page.problems == []
    ours = urlsplit(hub.url)
    for url in page.requests:
        parts = urlsplit(url)
        assert parts.scheme == "blob" or (parts.scheme, parts.netloc) == ours[:2], url
        assert hub.token not in url
    await browser.close(page)


@pytest.fixture
async def page(hub: Any, stranger: chromium.Page) -> chromium.Page:
    """Signed in."""
    await page_lab.sign_in(stranger, hub.token)
    return stranger
