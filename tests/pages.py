"""The Spaces' pages, served and opened in a browser."""

import asyncio
import importlib.util
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import yaml


SPACES = Path(__file__).parent.parent / "spaces"
HOSTILE = '<img src="x" onerror="window.hacked=1">'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
CHROMIUM_ARGUMENTS += ["--disable-background-networking", "--disable-component-update"]
HAS_MCP = importlib.util.find_spec("mcp") is not None
# Milliseconds that a browser may take: a machine that is busy with other tests takes its time.
PATIENCE = 30_000


def load_app(space):
    """A Space's own program, under a name that no other Space has."""
    specification = importlib.util.spec_from_file_location(f"{space}_app", SPACES / space / "app.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


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


def check_space(space):
    """The front matter and requirements are those of a Space."""
    _, front, _ = (SPACES / space / "README.md").read_text().split("---\n", 2)
    fields = yaml.safe_load(front)
    assert (fields["sdk"], fields["app_file"], fields["license"]) == ("gradio", "app.py", "apache-2.0")
    assert len(fields["short_description"]) <= 60
    requirements = dict(line.split("==") for line in (SPACES / space / "requirements.txt").read_text().split())
    assert requirements["gradio"] == fields["sdk_version"]


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
