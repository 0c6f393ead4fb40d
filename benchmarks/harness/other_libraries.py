"""WebDataset, LitData, MosaicML Streaming and SPDL, each as its documentation recommends.

The first three add a storage format to PyTorch's DataLoader with worker
processes. Pillow or torchvision decode and augment, as in their examples. Each
format is written by its own writer and keeps the original bytes of JPEG files.
SPDL reads the original files with threads.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.delivery import Delivery
from harness.vendor_defaults import SelfShuffling
from harness.workload import Workload

_SHARDS = 4  # per worker, so that shuffled shards divide the work evenly


def make_transform(workload: Workload) -> Any:
    """Return the recipe's augmentation in torchvision v2: a PIL image or uint8 tensor -> uint8 [C, H, W]."""
    from torchvision.transforms import v2

    policy = workload.policy
    side = workload.image_size
    steps: list[Any] = [
        v2.PILToTensor(),
        v2.Grayscale() if workload.manifest.channels == 1 else v2.RGB(),
    ]
    if policy.crop == "resized":
        steps.append(
            v2.RandomResizedCrop(side, scale=policy.area, ratio=policy.aspect, antialias=True)
        )
    elif policy.crop == "shift":
        mode = "reflect" if policy.pad == "reflect" else "constant"
        steps.append(v2.RandomCrop(side, padding=policy.shift, padding_mode=mode))
    steps += [] if policy.flip == "none" else [v2.RandomHorizontalFlip()]

    return v2.Compose(steps)


class Batches(SelfShuffling):
    """Deliver from a DataLoader whose batches are (images, labels)."""

    def __init__(self, loader: Any, device: torch.device, files: list[str]) -> None:
        self.loader = loader
        self.device = device
        self.files = files

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Yield one pass in the library's own order, copied to the device."""
        for images, labels in self.loader:
            moved = images.to(self.device, non_blocking=True)
            yield Delivery(
                len(labels), moved, torch.as_tensor(labels).to(self.device, non_blocking=True)
            )

    def close(self) -> None:
        """End the worker processes."""
        self.loader = None


def _loader_options(workload: Workload) -> dict[str, Any]:
    """Return the options that users of DataLoader are told to set."""
    return {
        "num_workers": workload.threads,
        "pin_memory": workload.torch_device.type == "cuda",
        "persistent_workers": workload.threads > 0,
    }


def _suffix(path: str) -> str:
    return Path(path).suffix.lower().removeprefix(".").replace("jpeg", "jpg")


def write_webdataset(workload: Workload, folder: Path) -> None:
    """Write shards with its ShardWriter, in a random order, since shuffling later happens only within a buffer."""
    import webdataset as wds

    order = np.random.default_rng(0).permutation(workload.count).tolist()
    most = -(-workload.count // (_SHARDS * workload.threads))
    with wds.ShardWriter(str(folder / "train-%06d.tar"), maxcount=most, verbose=0) as writer:
        for row in order:
            path = workload.files[row]
            label = str(int(workload.labels[row]))
            writer.write(
                {"__key__": f"{row:09d}", _suffix(path): Path(path).read_bytes(), "cls": label}
            )


def webdataset(workload: Workload) -> Batches:
    """Open the pipeline of its README: shards split over the workers, then shuffle, decode and batch in each worker."""
    import webdataset as wds

    shards = sorted(str(path) for path in workload.folder("webdataset").glob("*.tar"))
    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards))
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg;png;webp;bmp;ppm", "cls")
        .map_tuple(make_transform(workload), int)
        .batched(
            workload.batch_size
        )  # partial ones too, or each worker would leave out up to a batch
    )

    return Batches(
        wds.WebLoader(dataset, batch_size=None, **_loader_options(workload)),
        workload.torch_device,
        shards,
    )


def _open_row(row: tuple[str, int]) -> dict[str, Any]:
    from PIL import Image

    path, label = row
    return {"image": Image.open(path), "label": label}


def _read_row(row: tuple[str, int]) -> dict[str, Any]:
    path, label = row
    return {"image": Path(path).read_bytes(), "label": label}


def write_litdata(workload: Workload, folder: Path) -> None:
    """Write with its `optimize`.

    A JPEG is kept as it is, other files as bytes, since it would encode them as
    JPEG. It empties the folders of these two variables, which by default are `chunks`
    and `data` in the folder of temporary files, whoever's they are.
    """
    os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = str(folder / "emptied/chunks")
    os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = str(folder / "emptied/data")
    import litdata

    rows = list(zip(workload.files, workload.labels.tolist(), strict=True))
    jpeg = _suffix(workload.files[0]) == "jpg"
    litdata.optimize(
        fn=_open_row if jpeg else _read_row,
        inputs=rows,
        output_dir=str(folder / "data"),
        chunk_bytes="64MB",
        num_workers=workload.threads,
    )


def litdata(workload: Workload, url: str = "", cache: str = "") -> Batches:
    """Open a StreamingDataset with the transform in `__getitem__`, in its StreamingDataLoader.

    Args:
        workload: what to deliver.
        url: of the chunks in object storage; "": they are read from their folder.
        cache: folder for what is fetched.
    """
    import litdata
    from PIL import Image

    augment = make_transform(workload)
    folder = workload.folder("litdata") / "data"
    places: dict[str, Any] = (
        {"input_dir": url, "cache_dir": cache} if url else {"input_dir": str(folder)}
    )

    class Images(litdata.StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[Tensor, int]:
            row = super().__getitem__(index)
            image = row["image"]
            return augment(
                Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image
            ), row["label"]

    dataset = Images(**places, shuffle=True, drop_last=True)
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=workload.batch_size, drop_last=True, **_loader_options(workload)
    )

    return Batches(loader, workload.torch_device, [str(path) for path in folder.glob("*.bin")])


def write_streaming(workload: Workload, folder: Path) -> None:
    """Write with its MDSWriter, which keeps the bytes of JPEG files."""
    from PIL import Image
    from streaming import MDSWriter

    kind = "jpeg" if _suffix(workload.files[0]) == "jpg" else "png"
    with MDSWriter(out=str(folder / "data"), columns={"image": kind, "label": "int"}) as writer:
        for path, label in zip(workload.files, workload.labels.tolist(), strict=True):
            with Image.open(path) as image:
                writer.write({"image": image, "label": label})


def streaming(workload: Workload, url: str = "", cache: str = "") -> Batches:
    """Open a StreamingDataset with the transform in `__getitem__`, in a DataLoader.

    Args:
        workload: what to deliver.
        url: of the shards in object storage; "": they are read from their folder.
        cache: folder for what is fetched.
    """
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    augment = make_transform(workload)
    folder = workload.folder("streaming") / "data"

    class Images(StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[Tensor, int]:
            row = super().__getitem__(index)
            return augment(row["image"]), row["label"]

    clean_stale_shared_memory()
    places = {"remote": url, "local": cache} if url else {"local": str(folder)}
    dataset = Images(**places, shuffle=True, batch_size=workload.batch_size)
    loader: Any = DataLoader(
        dataset, batch_size=workload.batch_size, drop_last=True, **_loader_options(workload)
    )

    return Batches(loader, workload.torch_device, [str(path) for path in folder.glob("*.mds")])


class Spdl(SelfShuffling):
    """Deliver with SPDL's pipeline: FFmpeg decodes batches of paths in threads, and its filters crop and scale."""

    def __init__(self, workload: Workload) -> None:
        import spdl.io

        self.workload = workload
        self.files = workload.files
        spdl.io.demux_image(self.files[0])  # fails here, not in a thread, where FFmpeg is missing

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Yield one pass over the shuffled files."""
        from spdl.pipeline import PipelineBuilder

        work = self.workload
        order = np.random.default_rng(number).permutation(work.count)
        full = work.count // work.batch_size * work.batch_size
        builder: Any = PipelineBuilder().add_source(order[:full].reshape(-1, work.batch_size))
        pipeline = (
            builder.pipe(self._decode_batch, concurrency=work.threads)
            .add_sink(3)
            .build(num_threads=work.threads)
        )
        with pipeline.auto_stop():
            for images, labels in pipeline.get_iterator():
                moved = images.to(work.torch_device, non_blocking=True)
                yield Delivery(len(labels), moved, labels.to(work.torch_device, non_blocking=True))

    def _decode_batch(self, rows: Any) -> tuple[Tensor, Tensor]:
        import spdl.io

        random = np.random.default_rng(int(rows[0]))
        frames = []
        for row in rows:
            packets = spdl.io.demux_image(self.files[row])
            frames.append(
                spdl.io.decode_packets(
                    packets, filter_desc=_spdl_filter(self.workload, packets, random)
                )
            )
        buffer = spdl.io.convert_frames(frames)
        return spdl.io.to_torch(buffer), torch.from_numpy(self.workload.labels[rows])


def _spdl_filter(workload: Workload, packets: Any, random: np.random.Generator) -> str:
    """Return FFmpeg's filters for one image: crop, scale, flip."""
    policy = workload.policy
    side = workload.image_size
    steps = []
    if policy.crop == "resized":
        x, y, w, h = _draw_box(packets.width, packets.height, policy.area, policy.aspect, random)
        steps = [f"crop={w}:{h}:{x}:{y}", f"scale={side}:{side}:flags=bilinear"]
    elif policy.crop == "shift":
        reach = policy.shift
        dy, dx = random.integers(0, 2 * reach + 1, 2)
        steps = [
            f"pad=iw+{2 * reach}:ih+{2 * reach}:{reach}:{reach}",
            f"crop={side}:{side}:{dx}:{dy}",
        ]
    steps += ["hflip"] if policy.flip != "none" and random.random() < 0.5 else []

    return ",".join([*steps, f"format={'gray' if workload.manifest.channels == 1 else 'rgb24'}"])


def _draw_box(
    width: int,
    height: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    random: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draw a random resized crop as torchvision does: x, y, w, h in px."""
    for _ in range(10):
        size = random.uniform(*area) * width * height
        ratio = np.exp(random.uniform(*np.log(aspect)))
        w = round((size * ratio) ** 0.5)
        h = round((size / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            x = int(random.integers(0, width - w + 1))
            y = int(random.integers(0, height - h + 1))
            return x, y, w, h
    return 0, 0, width, height
