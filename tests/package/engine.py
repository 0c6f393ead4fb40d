"""Images without a Docker engine: a Debian of its own to build on, and the stand-in `docker` on the PATH."""

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

TOOLS = ("debootstrap", "buildah", "unshare")
# Bytes. Building an image of 9.4 GB took 49.6 at most: `.venv` in both stages, twice in TMPDIR, and in the store.
# The rest is for what runs beside it.
ROOM = 56e9
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def why_not() -> str:
    """What is missing here to build images; empty: nothing."""
    if os.geteuid() != 0:
        return "images are built by root"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(absent)} (apt-get install debootstrap buildah)"
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < ROOM:
        return f"building needs {ROOM / 1e9:.0f} GB in {tempfile.gettempdir()}, {free / 1e9:.0f} are free"
    if subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True).returncode:
        return "this container may not make namespaces"
    return ""


class Engine:
    """The stand-in, with its images in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        self.kept = folder / "kept"  # /opt/ml of the last container
        # buildah keeps layers that it is about to commit in TMPDIR.
        (folder / "tmp").mkdir()
        cache = Path.home() / ".cache/uv"
        self.environment = {
            "PATH": f"{Path(__file__).parent}:{os.environ['PATH']}",
            "TMPDIR": str(folder / "tmp"),
            "STANDIN_STORE": str(self.store),
            "STANDIN_BASE": "localhost/debian-here",
            "STANDIN_CACHE": str(cache) if cache.is_dir() else "",
            "STANDIN_KEEP": str(self.kept),
        }

    def buildah(self, *arguments: str) -> str:
        """Run buildah on the images here; returns what it printed."""
        command = ["buildah", "--root", str(self.store), "--runroot", f"{self.store}/run", *arguments]
        environment = os.environ | self.environment
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout.strip()

    def docker(self, *arguments: str) -> subprocess.CompletedProcess:
        """Call the stand-in."""
        shutil.rmtree(self.kept, ignore_errors=True)
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, env=os.environ | self.environment)

    def make_base(self) -> None:
        """What `debian:bookworm-slim` is on Docker Hub; and the certificates of this host, which may be its own."""
        root = self.folder / "root"
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(root)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        keep_none = 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };\n'  # as Debian's own images do
        (root / "etc/apt/apt.conf.d/docker-clean").write_text(keep_none)
        container = self.buildah("from", "scratch")
        self.buildah("add", "-q", container, str(root), "/")
        if CERTIFICATES.is_file():
            self.buildah("copy", "-q", container, str(CERTIFICATES), str(CERTIFICATES))
            variables = (f"--env={name}={CERTIFICATES}" for name in ("SSL_CERT_FILE", "PIP_CERT"))
            self.buildah("config", *variables, container)
        self.buildah("commit", "-q", "--rm", container, self.environment["STANDIN_BASE"])
        shutil.rmtree(root)


@contextmanager
def engine():
    """An Engine with its base image; leaves nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="trainer-images-"))
    made = Engine(folder)
    try:
        made.make_base()
        yield made
    finally:
        made.buildah("rm", "--all")
        made.buildah("rmi", "--all", "--force")
        shutil.rmtree(folder)
