"""The images of ../shared/cases/images: in a folder of images, and in a Hafnia dataset by all four engines."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image
from workbench import IMAGES, ROOT, Case, Workbench, found_of

sys.path.insert(0, str(ROOT / "tests"))
from engine_views import Views, load

MOST = 2.0  # of 255, mean absolute difference between two engines
# The same of noise: the array's images are resized twice, which smooths it (docs/engines.md).
MOST_OF_NOISE = 5.0
SIDE = 48  # px of the views
CLASSES = "a b"
MAKE_FOLDER = "make.folder('data', counts={'train': 60, 'val': 5, 'test': 5}, ext='png')"


@dataclass(frozen=True)
class Input:
    """An image and what is right.

    Attributes:
        name: of the file.
        use: "used", "left out" (named and not used) or "either".
        note: words that one line of the output must hold.
        turned: it is to be turned by a quarter, clockwise.
        one_picture: the engines are asked, and must show one picture.
        size: width and height, upright; None: not asked.
    """

    name: str
    use: str = "used"
    note: tuple[str, ...] = ()
    turned: bool = False
    size: tuple[int, int] | None = None
    beton_side: int = 0
    most: float = MOST

    @property
    def expected(self) -> str:
        words = {"used": "used", "left out": "left out and named", "either": "used, or left out and named"}
        more = [f"a line with {' and '.join(map(repr, self.note))}"] * bool(self.note)
        more += [f"{self.size[0]} wide, {self.size[1]} high"] if self.size else []
        return ", ".join([words[self.use], *more])


INPUTS = [
    Input("jpeg_441_own.jpg"),
    Input("._000.jpg", use="left out"),
    Input("png_bigtext.png", use="either"),
    Input("plain.webp"),
    Input("plain.jfif"),
    Input("plain.jpe"),
    Input("webp_named.jpg", note=("webp",)),
    Input("png_named.jpg", note=("png",)),
    Input("jpeg_named.png", note=("jpeg",)),
    Input("avif_exif6.avif", turned=True, size=(110, 150)),
    Input("jpeg_xmp6.jpg", turned=True, size=(110, 150)),
    Input("jpeg_xmp6_exif_without_orientation.jpg", turned=True, size=(110, 150)),
    Input("jpeg_exif6_be_long.jpg"),
    Input("jpeg_exif6_byte.jpg"),
    Input("png_xmp6.png"),
    Input("apng_default_image.png"),
    Input("jpeg_short_jfif.jpg", use="either"),
    Input("pano_4000x200.jpg", beton_side=-1, most=MOST_OF_NOISE),
]


def _in_folder(given: Input, workbench: Workbench) -> tuple[bool, str]:
    """Put the image among those of a class in a folder of images, and prepare it."""
    workbench.make(MAKE_FOLDER)
    shutil.copy(IMAGES / given.name, workbench.folder / "data/train/cat" / given.name)
    prepared = workbench.prepare("data", "--image-size", "32")
    used = prepared.used(given.name)
    left_out = prepared.left_out(given.name)
    right = {"used": used, "left out": left_out, "either": used or left_out}[given.use]
    state = "used" if used else "left out and named" if left_out else "not used and not named"
    facts = [(prepared.done.code == 0, prepared.done.last), (right, state)]
    if prepared.done.code != 0:
        return False, prepared.done.last
    if given.note:
        facts.append((prepared.done.says(*given.note), f"no line with {' and '.join(given.note)}"))
    if given.size and used:
        size = prepared.sizes[given.name]
        facts.append((size == given.size, f"{size[0]} wide, {size[1]} high"))
    return found_of(facts)


def _by_engines(given: Input, workbench: Workbench) -> tuple[bool, str]:
    """Put the image into the test split of a Hafnia dataset, and look at it through all engines."""
    workbench.make(
        f"make.hafnia('data', change=lambda rows: rows + [rows[-1] | dict(file_path='data/' + {given.name!r}, "
        "width=150, height=110)])"
    )
    shutil.copy(IMAGES / given.name, workbench.folder / "data/data" / given.name)
    command = [sys.executable, str(ROOT / "tests/engine_views.py"), "data", "prepared", "--image-size", str(SIDE)]
    done = workbench.run(*command, "--beton-side", str(given.beton_side))
    path = workbench.folder / "prepared/views.npz"
    if done.code != 0 or not path.is_file():
        return False, done.last
    views = load(path)
    if given.name in views.skipped:
        return given.use != "used", f"left out: {views.skipped[given.name]}"
    return found_of([*_one_picture(views, given), *_upright(views, given)])


def _one_picture(views: Views, given: Input) -> list[tuple[bool, str]]:
    bad = {engine: errors[given.name] for engine, errors in views.errors.items() if given.name in errors}
    if bad:
        return [(False, f"{engine}: ... {error[-150:]}") for engine, error in bad.items()]
    spread = views.spread(given.name)
    by_engine = {engine: images[given.name].astype(int) for engine, images in views.images.items()}
    middle = np.median(np.stack(list(by_engine.values())), axis=0)
    apart = ", ".join(f"{engine} {np.abs(pixels - middle).mean():.1f}" for engine, pixels in by_engine.items())
    return [(spread <= given.most, f"engines differ by {spread:.1f} of 255 (from their median: {apart})")]


def _upright(views: Views, given: Input) -> list[tuple[bool, str]]:
    """Compare each view with the stored picture and with this turned by a quarter."""
    if not given.turned:
        return []
    with Image.open(IMAGES / given.name) as image:
        stored = image.convert("RGB")
    facts = []
    for engine, images in views.images.items():
        if given.name not in images:
            continue
        shown = images[given.name].astype(int)
        as_stored, turned = (
            np.abs(np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(int) - shown).mean()
            for picture in (stored, stored.transpose(Image.Transpose.ROTATE_270))
        )
        facts.append((bool(turned < as_stored), f"{engine}: {'turned' if turned < as_stored else 'not turned'}"))
    return facts


def _cases(given: Input) -> list[Case]:
    words = "one verdict" if given.use == "either" else "one picture"
    engines = f"{words} by all engines{', turned' if given.turned else ''}"
    in_folder = Case(f"{given.name} in a folder", given.expected, partial(_in_folder, given))
    if given.use == "left out":
        return [in_folder]
    return [in_folder, Case(f"{given.name} by engines", engines, partial(_by_engines, given))]


def _nothing_forgotten(workbench: Workbench) -> tuple[bool, str]:
    forgotten = {path.name for path in IMAGES.iterdir()} - {given.name for given in INPUTS}
    return not forgotten, f"without a case: {', '.join(sorted(forgotten)) or 'none'}"


CASES = [case for given in INPUTS for case in _cases(given)]
CASES.append(Case("images", "each has a case", _nothing_forgotten))
