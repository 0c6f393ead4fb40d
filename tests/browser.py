"""Open a page in headless Chromium or Chrome: its console, its elements after scripts ran, and a screenshot."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "google-chrome", "chromium-browser", "google-chrome-stable")
_CONSOLE = re.compile(r'CONSOLE[:(]\d+\)?\] "(.*)", source', re.DOTALL)


@dataclass(frozen=True)
class Visit:
    """What a page came to: its elements as HTML, and what it wrote to the console."""

    elements: str
    console: list[str]


def find_browser() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """Headless, with a profile of its own, and without a network: every host name leads nowhere.

    Args:
        program: of the browser.
        folder: for its profile.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.folder = folder

    def open(self, page: Path, width: int, height: int = 1600, dark: bool = False) -> Visit:
        done = self._run("--dump-dom", f"--window-size={width},{height}", *_theme(dark), page.as_uri())
        return Visit(done.stdout, _CONSOLE.findall(done.stderr))

    def shoot(self, page: Path, picture: Path, width: int, height: int, dark: bool = False) -> None:
        self._run(f"--screenshot={picture}", f"--window-size={width},{height}", *_theme(dark), page.as_uri())

    def _run(self, *options: str) -> subprocess.CompletedProcess[str]:
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0")
        network = ("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--no-first-run")
        profile = f"--user-data-dir={self.folder / 'profile'}"
        command = [self.program, *flags, *network, profile, *options]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def _theme(dark: bool) -> tuple[str, ...]:
    return ("--force-dark-mode", "--blink-settings=preferredColorScheme=0") if dark else ()
