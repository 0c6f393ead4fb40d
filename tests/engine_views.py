"""Show what each engine makes of the files of a dataset: the whole image as a batch has it, or why there is none.

The only place of the odd images and the cases that knows the package's functions; run as a command it needs a folder:

    python tests/engine_views.py DATASET OUT [--image-size 32] [--beton-side -1] [--task NAME]

writes OUT/views.npz with an array [n, T, T, C] and a list of errors for each engine, and the names of the files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Uint8 = npt.NDArray[np.uint8]
ENGINES = ("resident", "ffcv", "dali", "torch")


@dataclass(frozen=True)
class Views:
    """What the engines show.

    Attributes:
        images: engine -> file -> uint8 [T, T, C].
        errors: engine -> file -> why the engine has none.
        skipped: file -> why prepare left it out, for all engines alike.
    """

    images: dict[str, dict[str, Uint8]]
    errors: dict[str, dict[str, str]]
    skipped: dict[str, str]

    def spread(self, file: str) -> float:
        """Return the largest mean absolute difference, of 255, between two engines that show a file."""
        shown = [images[file].astype(int) for images in self.images.values() if file in images]
        differences = [np.abs(a - b).mean() for n, a in enumerate(shown) for b in shown[:n]]
        return float(max(differences, default=0.0))


def engine_views(
    dataset: Path, out: Path, image_size: int = 0, beton_side: int = 0, engines: tuple[str, ...] = ENGINES
) -> Views:
    """Prepare a dataset in all formats, leave out its bad images, and show its split "test" by each engine."""
    from trainer_classification.config import PrepareConfig
    from trainer_classification.preparation.pipeline import prepare

    config = PrepareConfig(
        dataset=str(dataset),
        prepared=str(out),
        image_size=image_size,
        beton_side=beton_side,
        validation_fraction=0,
        on_bad_image="skip",
        workers=2,
    )
    prepared = prepare(config)
    images: dict[str, dict[str, Uint8]] = {}
    errors: dict[str, dict[str, str]] = {}
    for engine in engines:
        images[engine], errors[engine] = _shown(engine, prepared.folder, prepared.manifest)
    skipped = {Path(entry["file"]).name: entry["reason"] for entry in prepared.manifest.skipped}
    return Views(images, errors, skipped)


def _shown(engine: str, folder: Path, manifest: Any) -> tuple[dict[str, Uint8], dict[str, str]]:
    """Return the images by file, and the errors; behind an error the engine is opened again at the next image."""
    import torch

    from trainer_classification.data.table import open_table
    from trainer_classification.loaders.base import LoaderRequest
    from trainer_classification.loaders.registry import choose_engine, open_loader

    files = [Path(name).name for name in open_table(folder, manifest, "test").files]

    choice = choose_engine(engine, manifest.array_layout, 1, torch.device("cpu"))
    request = LoaderRequest(
        folder, manifest, "test", None, batch_size=1, image_size=manifest.train_size, device=torch.device("cpu"),
        threads=1,
    )  # fmt: skip

    def open_engine() -> Any:
        return open_loader(choice, request)

    return _collected(open_engine, files)


def _collected(open_engine: Callable[[], Any], files: list[str]) -> tuple[dict[str, Uint8], dict[str, str]]:
    images: dict[str, Uint8] = {}
    errors: dict[str, str] = {}
    at = 0
    while at < len(files):
        try:
            with open_engine() as loader:
                for batch in loader.epoch(0, at):
                    images[files[at]] = batch.images[0].cpu().numpy().copy()
                    at += 1
                break
        except (ValueError, OSError, RuntimeError) as error:
            errors[files[at]] = _shortened(f"{type(error).__name__}: {error}")
            at += 1
    return images, errors


def _shortened(text: str) -> str:
    """Return the first and last words: the reason stands at either end of a long message."""
    words = " ".join(text.split())
    return words if len(words) <= 400 else f"{words[:150]} ... {words[-250:]}"


def save(views: Views, path: Path) -> None:
    """Write views as numpy arrays; `load` reads them."""
    arrays: dict[str, Any] = {"skipped": np.array(list(views.skipped.items()), object)}
    for engine in views.images:
        arrays[f"{engine}_images"] = np.array([(k, v) for k, v in views.images[engine].items()], object)
        arrays[f"{engine}_errors"] = np.array(list(views.errors[engine].items()), object)
    np.savez(path, allow_pickle=True, **arrays)


def load(path: Path) -> Views:
    """Read what `save` wrote."""
    found = np.load(path, allow_pickle=True)
    pairs = {name: dict(found[name]) for name in found.files if name != "allow_pickle"}
    engines = [name.removesuffix("_images") for name in pairs if name.endswith("_images")]
    return Views(
        {engine: pairs[f"{engine}_images"] for engine in engines},
        {engine: pairs[f"{engine}_errors"] for engine in engines},
        pairs["skipped"],
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--image-size", type=int, default=0)
    parser.add_argument("--beton-side", type=int, default=0)
    parser.add_argument("--engines", default=",".join(ENGINES))
    args = parser.parse_args()
    engines = tuple(args.engines.split(","))
    views = engine_views(args.dataset, args.out, args.image_size, args.beton_side, engines)
    save(views, args.out / "views.npz")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
    _main()
