"""The Spaces' pages, served and opened in a browser."""

import asyncio
import importlib.util
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest


SPACES = Path(__file__).parent.parent / "spaces"
HOSTILE = '<img src="x" onerror="window.hacked=1">'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
CHROMIUM_ARGUMENTS += ["--disable-background-networking", "--disable-component-update"]
HAS_MCP = importlib.util.find_spec("mcp") is not None
# Milliseconds that a browser may take: a machine that is busy with other tests takes its time.
PATIENCE = 30_000


@contextmanager
def loaded_app(space, folder):
    """A Space's own program where no variable names models or data, under a name that no other Space has."""
    specification = importlib.util.spec_from_file_location(f"{space}_app", SPACES / space / "app.py")
    module = importlib.util.module_from_spec(specification)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name == "MODEL_ID" or name.startswith("SCREENING_")]:
            patch.delenv(name)
        # Where Gradio puts what it serves.
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setitem(sys.modules, specification.name, module)
        specification.loader.exec_module(module)
        yield module


@contextmanager
def served(page, **options):
    """The address of a page."""
    _, address, _ = page.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True, **options)
    try:
        yield address
    finally:
        page.close()


@contextmanager
def opened(browser, url):
    """A page in a new visitor's browser. It asks no other machine for anything."""
    context = browser.new_context(viewport={"width": 1400, "height": 1100})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    requested = []
    page.on("request", lambda request: requested.append(request.url))
    try:
        page.goto(url, wait_until="domcontentloaded")
        yield page
    finally:
        context.close()
    assert [address for address in requested if not address.startswith((url.rstrip("/"), "data:", "blob:"))] == []


def field(page, name):
    """Where a page takes or shows a line or lines of text."""
    return page.locator(f"#{name} textarea, #{name} input").first


def assert_is_text(page):
    """What was typed is text: nothing of it has become part of the page."""
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src='x']").count() == 0


def call_tool(url, name, arguments):
    """The tools that a page is for MCP clients, and what one of them answers."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def ask():
        address = f"{url}gradio_api/mcp/"
        async with streamable_http_client(address) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            return tools, await session.call_tool(name, arguments)

    tools, result = asyncio.run(ask())
    assert all(field["description"] for tool in tools.values() for field in tool.inputSchema["properties"].values())
    return tools, " ".join(part.text for part in result.content)
