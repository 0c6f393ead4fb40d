"""Open a page in headless Chromium or Chrome: what it writes to the console, what a script in it finds, its picture."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "google-chrome", "chromium-browser", "google-chrome-stable")
_CONSOLE = re.compile(r'CONSOLE[:(]\d+\)?\] "(.*)", source', re.DOTALL)

# The window of a headless browser has 500 px at least, so a phone is a frame within it.
_FRAME = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style>
<pre id="found" hidden></pre>
<script>addEventListener("message", (event) => {{ found.textContent = event.data }})</script>
<iframe src="{page}" width="{width}" height="{height}"></iframe>
"""


@dataclass(frozen=True)
class Visit:
    """What a page came to: what its script sent by `send`, and the lines on the console."""

    found: Any
    console: list[str]


def find_browser() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A headless browser with a profile of its own, for which every host name leads nowhere.

    Args:
        program: of the browser.
        folder: for its profile and the pages that are made.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.folder = folder

    def open(self, page: Path, width: int, dark: bool = False) -> Visit:
        done = self._run(page, width, 1600, dark, "--dump-dom")
        found = re.search(r'<pre id="found" hidden="">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stderr
        text = html.unescape(found[1])
        return Visit(json.loads(text) if text else None, _CONSOLE.findall(done.stderr))

    def shoot(self, page: Path, picture: Path, width: int, height: int, dark: bool = False) -> None:
        self._run(page, width, height, dark, f"--screenshot={picture}")

    def _run(self, page: Path, width: int, height: int, dark: bool, action: str) -> subprocess.CompletedProcess[str]:
        frame = self.folder / "frame.html"
        frame.write_text(_FRAME.format(page=page.as_uri(), width=width, height=height), encoding="utf-8")
        command = [
            *(self.program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--enable-logging=stderr", "--v=0", "--no-first-run", "--disable-background-networking"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={self.folder / 'profile'}"),
            *(f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--window-size={width},{height}"),
            *(action, frame.as_uri()),
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def add_script(page: Path, target: Path, script: str, allowed: bool) -> Path:
    """Write the page with a script at its end, which its policy gets to allow or not; `send(value)` sends JSON."""
    script = f"const send = (value) => parent.postMessage(JSON.stringify(value), '*');\n{script}"
    text = page.read_text(encoding="utf-8")
    if allowed:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        text = text.replace("script-src &#39;", f"script-src &#39;sha256-{digest}&#39; &#39;", 1)
    target.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return target
