"""A headless Chromium for the tests of what people see. `make browser` runs them; `make test` does not."""

import os
import shutil

import pytest

BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
"""The picture that every notebook shows of Colab's own; here an empty one is given in its place."""
EMPTY = '<svg xmlns="http://www.w3.org/2000/svg" width="117" height="20"/>'
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def chromium():
    """The browser; the tests fail, and say what to install, where there is none."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.exit(
            "no Chromium found: install it (on Debian and Ubuntu: apt-get install chromium), or set CHROMIUM to the "
            "path of a Chromium or Chrome",
            returncode=2,
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, request):
    """Return a function that opens an address in a fresh context, by default as wide as a desktop's window.

    The test fails at the end if a page logged an error, threw one, or asked any host but this machine.
    """
    contexts, faults = [], []

    def watch(page):
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("console", lambda line: line.type == "error" and faults.append(f"console: {line.text}"))
        page.on("request", lambda asked: _is_local(asked.url) or faults.append(f"asked {asked.url}"))

    def open_page(address, width=1280, height=900, scheme="light", **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        watch(page)
        page.route(BADGE, lambda route: route.fulfill(content_type="image/svg+xml", body=EMPTY))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def _is_local(url):
    local = ("file:", "data:", "blob:", "about:", "http://127.0.0.1", "http://localhost", "ws://127.0.0.1")
    return url == BADGE or url.startswith(local)
