"""WebDataset, LitData, MosaicML Streaming and SPDL, each as its documentation recommends.

The first three bring their own storage to PyTorch's DataLoader, with worker processes; decoding and augmentation are
Pillow's or torchvision's, as in their examples. Each writes its format by its own writer, with the original bytes of
JPEG files. SPDL reads the original files with threads.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.delivery import Delivery
from harness.vendor_defaults import SelfShuffling
from harness.workload import Workload

_SHARDS = 4  # for each worker, so that shuffled shards share the work evenly


def transform(workload: Workload) -> Any:
    """torchvision v2: the recipe's augmentation of a PIL image or of a uint8 tensor, to uint8 [C, H, W]."""
    from torchvision.transforms import v2

    policy, side = workload.policy, workload.image_size
    steps: list[Any] = [v2.PILToTensor(), v2.Grayscale() if workload.manifest.channels == 1 else v2.RGB()]
    if policy.crop == "resized":
        steps.append(v2.RandomResizedCrop(side, scale=policy.area, ratio=policy.aspect, antialias=True))
    elif policy.crop == "shift":
        mode = "reflect" if policy.pad == "reflect" else "constant"
        steps.append(v2.RandomCrop(side, padding=policy.shift, padding_mode=mode))
    steps += [] if policy.flip == "none" else [v2.RandomHorizontalFlip()]
    return v2.Compose(steps)


class Batches(SelfShuffling):
    """A DataLoader of any of them, whose batches are (images, labels)."""

    def __init__(self, loader: Any, device: torch.device, files: list[str]) -> None:
        self.loader, self.device, self.files = loader, device, files

    def epoch(self, number: int) -> Iterator[Delivery]:
        """A pass of its own, copied to the device."""
        for images, labels in self.loader:
            there = images.to(self.device, non_blocking=True)
            yield Delivery(len(labels), there, torch.as_tensor(labels).to(self.device, non_blocking=True))

    def close(self) -> None:
        """End the worker processes."""
        self.loader = None


def _loading(workload: Workload) -> dict[str, Any]:
    """Options of a DataLoader that its users are told to set."""
    return {
        "num_workers": workload.threads,
        "pin_memory": workload.where.type == "cuda",
        "persistent_workers": workload.threads > 0,
    }


def _suffix(path: str) -> str:
    return Path(path).suffix.lower().removeprefix(".").replace("jpeg", "jpg")


def write_webdataset(workload: Workload, folder: Path) -> None:
    """By its ShardWriter, in a random order, as shuffling happens within a buffer later."""
    import webdataset as wds

    order = np.random.default_rng(0).permutation(workload.count).tolist()
    most = -(-workload.count // (_SHARDS * workload.threads))
    with wds.ShardWriter(str(folder / "train-%06d.tar"), maxcount=most, verbose=0) as writer:
        for row in order:
            path = workload.files[row]
            label = str(int(workload.labels[row]))
            writer.write({"__key__": f"{row:09d}", _suffix(path): Path(path).read_bytes(), "cls": label})


def webdataset(workload: Workload) -> Batches:
    """The pipeline of its README: shards shuffled and split over the workers, shuffle, decode, batch in the worker."""
    import webdataset as wds

    shards = sorted(str(path) for path in workload.folder("webdataset").glob("*.tar"))
    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards))
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg;png;webp;bmp;ppm", "cls")
        .map_tuple(transform(workload), int)
        .batched(workload.batch_size)  # partial ones too: else each worker would leave out up to a batch
    )
    return Batches(wds.WebLoader(dataset, batch_size=None, **_loading(workload)), workload.where, shards)


def _opened(row_of: tuple[str, int]) -> dict[str, Any]:
    from PIL import Image

    path, label = row_of
    return {"image": Image.open(path), "label": label}


def _read(row_of: tuple[str, int]) -> dict[str, Any]:
    path, label = row_of
    return {"image": Path(path).read_bytes(), "label": label}


def write_litdata(workload: Workload, folder: Path) -> None:
    """By its `optimize`; a JPEG is kept as it is, any other file as its bytes, which its JPEG encoder would spoil."""
    import litdata

    rows = list(zip(workload.files, workload.labels.tolist(), strict=True))
    jpeg = _suffix(workload.files[0]) == "jpg"
    litdata.optimize(
        fn=_opened if jpeg else _read,
        inputs=rows,
        output_dir=str(folder / "data"),
        chunk_bytes="64MB",
        num_workers=workload.threads,
    )


def litdata(workload: Workload) -> Batches:
    """A StreamingDataset with the transform in `__getitem__`, and its StreamingDataLoader."""
    import litdata
    from PIL import Image

    augment, folder = transform(workload), workload.folder("litdata") / "data"

    class Images(litdata.StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[Tensor, int]:
            row = super().__getitem__(index)
            image = row["image"]
            return augment(Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image), row["label"]

    dataset = Images(str(folder), shuffle=True, drop_last=True)
    loader = litdata.StreamingDataLoader(dataset, batch_size=workload.batch_size, drop_last=True, **_loading(workload))
    return Batches(loader, workload.where, [str(path) for path in folder.glob("*.bin")])


def write_streaming(workload: Workload, folder: Path) -> None:
    """By its MDSWriter, which keeps the bytes of JPEG files."""
    from PIL import Image
    from streaming import MDSWriter

    kind = "jpeg" if _suffix(workload.files[0]) == "jpg" else "png"
    with MDSWriter(out=str(folder / "data"), columns={"image": kind, "label": "int"}) as writer:
        for path, label in zip(workload.files, workload.labels.tolist(), strict=True):
            with Image.open(path) as image:
                writer.write({"image": image, "label": label})


def streaming(workload: Workload) -> Batches:
    """A local StreamingDataset with the transform in `__getitem__`, in a DataLoader."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    augment, folder = transform(workload), workload.folder("streaming") / "data"

    class Images(StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[Tensor, int]:
            row = super().__getitem__(index)
            return augment(row["image"]), row["label"]

    clean_stale_shared_memory()
    dataset = Images(local=str(folder), shuffle=True, batch_size=workload.batch_size)
    loader: Any = DataLoader(dataset, batch_size=workload.batch_size, drop_last=True, **_loading(workload))
    return Batches(loader, workload.where, [str(path) for path in folder.glob("*.mds")])


class Spdl(SelfShuffling):
    """SPDL's pipeline: batches of paths, decoded by FFmpeg in threads, cropped and scaled by its filters."""

    def __init__(self, workload: Workload) -> None:
        import spdl.io

        self.workload, self.files = workload, workload.files
        spdl.io.demux_image(self.files[0])  # says here, not in a thread, that there is no FFmpeg

    def epoch(self, number: int) -> Iterator[Delivery]:
        """A pass over the shuffled files."""
        from spdl.pipeline import PipelineBuilder

        work = self.workload
        order = np.random.default_rng(number).permutation(work.count)
        full = work.count // work.batch_size * work.batch_size
        builder: Any = PipelineBuilder().add_source(order[:full].reshape(-1, work.batch_size))
        pipeline = builder.pipe(self._decoded, concurrency=work.threads).add_sink(3).build(num_threads=work.threads)
        with pipeline.auto_stop():
            for images, labels in pipeline.get_iterator():
                there = images.to(work.where, non_blocking=True)
                yield Delivery(len(labels), there, labels.to(work.where, non_blocking=True))

    def _decoded(self, rows: Any) -> tuple[Tensor, Tensor]:
        import spdl.io

        random = np.random.default_rng(int(rows[0]))
        frames = []
        for row in rows:
            packets = spdl.io.demux_image(self.files[row])
            frames.append(spdl.io.decode_packets(packets, filter_desc=_spdl_filter(self.workload, packets, random)))
        buffer = spdl.io.convert_frames(frames)
        return spdl.io.to_torch(buffer), torch.from_numpy(self.workload.labels[rows])


def _spdl_filter(workload: Workload, packets: Any, random: np.random.Generator) -> str:
    """FFmpeg's filters for one image: crop, scale, flip."""
    policy, side = workload.policy, workload.image_size
    steps = []
    if policy.crop == "resized":
        x, y, w, h = _box(packets.width, packets.height, policy.area, policy.aspect, random)
        steps = [f"crop={w}:{h}:{x}:{y}", f"scale={side}:{side}:flags=bilinear"]
    elif policy.crop == "shift":
        reach = policy.shift
        dy, dx = random.integers(0, 2 * reach + 1, 2)
        steps = [f"pad=iw+{2 * reach}:ih+{2 * reach}:{reach}:{reach}", f"crop={side}:{side}:{dx}:{dy}"]
    steps += ["hflip"] if policy.flip != "none" and random.random() < 0.5 else []
    return ",".join([*steps, f"format={'gray' if workload.manifest.channels == 1 else 'rgb24'}"])


def _box(
    width: int, height: int, area: tuple[float, float], aspect: tuple[float, float], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random resized crop, as torchvision draws it: x, y, w, h."""
    for _ in range(10):
        size = random.uniform(*area) * width * height
        ratio = np.exp(random.uniform(*np.log(aspect)))
        w, h = round((size * ratio) ** 0.5), round((size / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return int(random.integers(0, width - w + 1)), int(random.integers(0, height - h + 1)), w, h
    return 0, 0, width, height


spdl = Spdl
