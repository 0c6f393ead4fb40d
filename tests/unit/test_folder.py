"""Listing folders of images as people keep them."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import encoded, noise
from trainer_classification.config import PrepareConfig
from trainer_classification.data import folder_scan, image_suffixes
from trainer_classification.data.decode import decode
from trainer_classification.data.folder import FolderOptions, scan_folder
from trainer_classification.data.source import find_dataset
from trainer_classification.preparation.inspect import _complete_sizes as sizes

PNG = encoded(noise(0, channels=3))


def put(root: Path, *names: str, data: bytes = PNG) -> Path:
    """Write files below a folder; a name that ends in / is an empty folder."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(data)
    return root


def plain(root: Path, splits=("train", "val", "test"), classes=("cat", "dog"), count=4) -> Path:
    """Write <split>/<class>/<n>.png; without splits <class>/<n>.png."""
    names = [f"{s}/{c}/{n}.png" for s in splits or [""] for c in classes for n in range(count)]
    return put(root, *(name.lstrip("/") for name in names))


def labels_of(found) -> dict[str, tuple[str, str]]:
    """File -> (split, class)."""
    names = [found.class_names[label] for label in found.labels]
    return dict(zip(found.files, zip(found.splits.tolist(), names, strict=True), strict=True))


def noted(found, *texts: str) -> bool:
    """Whether one note has all the texts."""
    return any(all(text in note for text in texts) for note in found.notes)


def test_a_plain_folder_is_listed_in_order_without_a_note(tmp_path):
    found = scan_folder(plain(tmp_path / "photos"))
    assert found.files[:5] == [*(f"train/cat/{n}.png" for n in range(4)), "train/dog/0.png"]
    assert labels_of(found)["val/dog/3.png"] == ("validation", "dog")
    assert (found.name, found.root, found.notes) == ("photos", tmp_path / "photos", [])
    assert found.labels.dtype == np.int64


def test_classes_without_splits_are_taken_and_it_is_said_that_splits_are_cut(tmp_path):
    found = scan_folder(plain(tmp_path / "photos", splits=()))
    assert set(found.splits.tolist()) == {"train"}
    assert found.class_names == ["cat", "dog"]
    assert noted(found, "no split folders", "cut")


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("Training", "train"),
        ("TRAIN", "train"),
        ("dev", "validation"),
        ("Valid", "validation"),
        ("val", "validation"),
        ("eval", "test"),
        ("Testing", "test"),
    ],
)
def test_split_folders_are_known_by_their_usual_names_in_any_case(tmp_path, folder, split):
    root = plain(tmp_path / "photos", splits=("train", folder))
    found = scan_folder(root)
    assert labels_of(found)[f"{folder}/dog/0.png"] == (split, "dog")
    assert noted(found, f"{folder} as {split}") == (folder != "val")


def test_eval_beside_test_is_validation(tmp_path):
    found = scan_folder(plain(tmp_path / "photos", splits=("train", "eval", "test")))
    assert labels_of(found)["eval/cat/0.png"] == ("validation", "cat")
    assert labels_of(found)["test/cat/0.png"] == ("test", "cat")


def test_classes_called_like_splits_are_classes_where_others_are_beside_them(tmp_path):
    found = scan_folder(plain(tmp_path / "vehicles", splits=(), classes=("bus", "train")))
    assert found.class_names == ["bus", "train"]


def test_an_unknown_folder_beside_splits_is_an_error_that_names_it_and_the_option(tmp_path):
    root = put(plain(tmp_path / "photos"), "extra/cat/9.png")
    with pytest.raises(ValueError, match=r"beside them extra.*--unknown-folders skip.*--unknown-folders train"):
        scan_folder(root)
    assert noted(scan_folder(root, FolderOptions(unknown_folders="skip")), "extra")
    taken = scan_folder(root, FolderOptions(unknown_folders="train"))
    assert labels_of(taken)["extra/cat/9.png"] == ("train", "cat")


def test_an_unknown_folder_without_images_is_left_out_with_a_note(tmp_path):
    assert noted(scan_folder(put(plain(tmp_path / "photos"), "docs/readme.txt")), "docs")


def test_nested_folders_belong_to_the_first_level_and_can_be_refused(tmp_path):
    root = put(plain(tmp_path / "photos"), "train/cat/session1/x.png", "train/cat/dog/y.png", "train/cat/z.jpg/z.jpg")
    found = scan_folder(root)
    for name in ("session1/x.png", "dog/y.png", "z.jpg/z.jpg"):
        assert labels_of(found)[f"train/cat/{name}"] == ("train", "cat")
    assert noted(found, "1 in train/cat/session1", "--nested refuse")
    with pytest.raises(ValueError, match=r"3 images lie in folders within class folders, .*train/cat/dog"):
        scan_folder(root, FolderOptions(nested="refuse"))


@pytest.mark.parametrize(
    ("outer", "said"),
    [
        (
            {"seg_train/seg_train": "ab", "seg_test/seg_test": "ab"},
            "seem to be splits.*move seg_test/seg_test to test/, seg_train/seg_train to train/;",
        ),
        ({"seg_train/seg_train": "ab", "seg_test/seg_test": "ab", "seg_pred": [""]}, "seem to be splits, not classes"),
        ({"train_images": "ab", "val_images": "ab"}, r"train_images, val_images seem to be splits.*\(a, b\)"),
        ({"TrainImages": "ab", "TestImages": [""]}, "TestImages, TrainImages seem to be splits"),
        (
            {"train/seg_train": "ab", "test/seg_test": "ab"},
            "seg_test, seg_train seem to be splits.*move the folders in them up",
        ),
        ({"2023": "ab", "2024": "ab"}, "2023, 2024 seem to be years or batches.*merge .* or give --dataset .*/2023;"),
        ({"batch_1": "ab", "batch_2": "ab"}, "batch_1, batch_2 seem to be years or batches"),
        ({"PetImages": "ab"}, "PetImages is the only class folder.*give --dataset .*/PetImages;"),
        ({"train/images": "ab", "test/images": "ab"}, "images is the only class folder.*move the folders in them up;"),
    ],
)
def test_folders_a_level_above_the_classes_are_refused_unless_asked_for(tmp_path, outer, said):
    names = [f"{folder}/{name}/{n}.png" for folder, inner in outer.items() for name in inner for n in range(2)]
    root = put(tmp_path / "photos", *(name.replace("//", "/") for name in names))
    with pytest.raises(ValueError, match=f"{said}.*--nested take"):
        scan_folder(root)
    assert len(scan_folder(root, FolderOptions(nested="take")).files) == len(names)


@pytest.mark.parametrize(
    "names",
    [
        ["cat/cam1/0.png", "cat/cam2/1.png", "dog/cam1/2.png", "dog/cam2/3.png"],  # a folder for each camera
        ["train_station/platform/0.png", "train_station/hall/1.png", "test_tube/2.png", "sea/3.png", "sky/4.png"],
        ["2023/0.png", "2023/a/1.png", "2024/2.png", "2024/a/3.png"],  # with images of their own
        ["1990/obverse_x/0.png", "1990/rim_x/1.png", "1991/obverse_y/2.png", "1991/rim_y/3.png"],  # coins
        ["cat/photos/0.png", "cat/photos/1.png"],
        ["cat/x.png/", "dog/a/0.png", "dog/b/1.png"],  # a folder called as an image
    ],
)
def test_ordinary_folders_within_class_folders_are_taken_and_the_classes_named(tmp_path, names):
    found = scan_folder(put(tmp_path / "photos", *names))
    assert len(found.files) == len(names)
    assert found.class_names == sorted({name.split("/")[0] for name in names})
    assert noted(found, "--nested refuse", f"the classes are {', '.join(found.class_names)}")
    assert noted(found, "several of them have folders cam1, cam2") == ("cam1" in names[0])


def test_an_empty_validation_folder_is_as_if_it_were_not_there(tmp_path):
    found = scan_folder(put(plain(tmp_path / "photos", splits=("train", "test")), "val/cat/"))
    assert set(found.splits.tolist()) == {"train", "test"}
    assert noted(found, "as if not there: val")


def test_without_training_images_the_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no images to train on, only train, test"):
        scan_folder(put(plain(tmp_path / "photos", splits=("test",)), "train/cat/"))


def test_hidden_and_tool_files_and_folders_are_left_out_and_counted(tmp_path):
    hidden = [
        "train/.ipynb_checkpoints/a.png",
        "__MACOSX/train/cat/._0.png",
        "train/cat/@eaDir/0.png",
        "$RECYCLE.BIN/a.png",
        "train/cat/Thumbs.db",
        "train/.DS_Store",
        "train/cat/._0.png",
    ]
    found = scan_folder(put(plain(tmp_path / "photos"), *hidden))
    assert len(found.files) == 24
    assert found.class_names == ["cat", "dog"]
    assert found.left_out == {}
    for name in ("1 .ipynb_checkpoints", "1 @eaDir", "1 $RECYCLE.BIN", "1 Thumbs.db", "1 .DS_Store"):
        assert noted(found, name)
    assert noted(found, "1 AppleDouble files", "train/cat/._0.png")


SUFFIXES = "webp avif jfif jpe jif pjpeg jp2 dib apng ppm pgm pbm bmp gif tif tiff jpeg png JPG WebP"


@pytest.mark.parametrize("suffix", SUFFIXES.split())
def test_all_that_pillow_reads_is_listed(tmp_path, suffix):
    found = scan_folder(put(plain(tmp_path / "photos"), f"train/cat/x.{suffix}"))
    assert f"train/cat/x.{suffix}" in found.files


def test_a_file_without_a_suffix_is_an_image_by_its_first_bytes(tmp_path):
    root = put(plain(tmp_path / "photos"), "train/cat/IMG_1", "train/cat/n01440764.0001")
    put(root, "train/cat/README", data=b"Photos of cats")
    found = scan_folder(root)
    assert {"train/cat/IMG_1", "train/cat/n01440764.0001"} < set(found.files)
    assert found.left_out == {"": 1}
    assert noted(found, "1 without suffix")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM"])
def test_first_bytes_tell_images_of_every_usual_kind(kind):
    data = encoded(noise(1, channels=3), kind)
    assert image_suffixes.sniff(data[: image_suffixes.SNIFFED_BYTES]) in (".png", ".avif")


@pytest.mark.usefixtures("_no_plugin")
def test_other_files_are_counted_by_suffix_and_heic_and_jpeg_xl_say_how_to_convert(tmp_path):
    found = scan_folder(put(plain(tmp_path / "photos"), *(f"train/cat/x.{s}" for s in ("heic", "HEIC", "jxl", "txt"))))
    assert found.left_out == {".heic": 2, ".jxl": 1, ".txt": 1}
    assert noted(found, "2 .heic, 1 .jxl, 1 .txt", "heif-convert", "djxl")


@pytest.mark.usefixtures("_no_plugin")
def test_files_beside_the_folders_of_the_dataset_are_counted_too(tmp_path):
    root = put(plain(tmp_path / "photos"), "x.heic", "README.md", "loose")
    found = scan_folder(root)
    assert found.left_out == {".heic": 1, ".md": 1}
    assert noted(found, "1 images outside class folders", "loose")


def test_a_class_of_nothing_but_unreadable_photos_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"No image of .*train/owl can be read here: it holds 1 \.heic.*heif-convert"):
        scan_folder(put(plain(tmp_path / "photos"), "train/owl/x.heic"))


HEIF_PLUGIN = """
from PIL import Image

def open_heif(file, name):
    file.close()
    return Image.new("RGB", (3, 2))

def register_heif_opener():
    Image.register_open("HEIF", open_heif, lambda start: start[4:12] == b"ftypheic")
"""


@pytest.fixture
def _heif_plugin(tmp_path, monkeypatch):
    """Install a plug-in that shows any HEIC file as a black image of 3 x 2 px."""
    put(tmp_path / "plugins", "pillow_heif.py", data=HEIF_PLUGIN.encode())
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    caches = (image_suffixes.image_suffixes, image_suffixes.register_plugin)
    for cached in caches:
        cached.cache_clear()
    yield
    sys.modules.pop("pillow_heif", None)
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("_heif_plugin")
def test_heic_is_listed_and_opened_where_a_plug_in_is_installed(tmp_path):
    data = b"\0\0\0\x18ftypheic" + bytes(20)
    found = find_dataset(str(put(plain(tmp_path / "photos"), "train/owl/x.HEIC", "train/owl/y", data=data)))
    assert {"train/owl/x.HEIC", "train/owl/y"} < set(found.files)
    config = PrepareConfig(prepared=str(tmp_path / "prepared"))
    assert sizes(config, found)[found.files.index("train/owl/x.HEIC")].tolist() == [3, 2]


@pytest.mark.usefixtures("_heif_plugin")
def test_the_decoder_finds_the_plug_in_by_content(tmp_path):
    assert decode(b"\0\0\0\x18ftypheic" + bytes(20)).shape == (2, 3, 3)


@pytest.fixture
def _no_plugin(monkeypatch):
    monkeypatch.setattr(image_suffixes, "find_spec", lambda name: None)
    image_suffixes.image_suffixes.cache_clear()
    yield
    image_suffixes.image_suffixes.cache_clear()


@pytest.mark.parametrize("kind", ["folder", "dangling", "empty", "link to itself"])
def test_what_only_looks_like_an_image_is_listed_for_the_policy_to_decide(tmp_path, kind):
    root = plain(tmp_path / "photos")
    path = root / "train/cat/x.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.symlink_to("/nowhere.jpg" if kind == "dangling" else path)
    source = find_dataset(str(root))
    assert "train/cat/x.jpg" in source.files
    assert len(source.bytes) == 25


def test_a_pipe_is_never_opened(tmp_path):
    root = plain(tmp_path / "photos")
    os.mkfifo(root / "train/cat/x.jpg")
    os.mkfifo(root / "train/cat/y")
    assert scan_folder(root).left_out == {"pipe or device": 2}


def test_names_that_are_not_utf8_are_read_and_can_be_printed(tmp_path):
    root = plain(tmp_path / "photos")
    folder = os.fsencode(root) + b"/train/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/\xff.png", "wb") as file:
        file.write(PNG)
    with open(os.fsencode(root) + b"/train/cat/\xff.txt", "wb") as file:
        file.write(b"x")
    source = find_dataset(str(root))
    row = next(n for n, path in enumerate(source.files) if "caf" in path)
    assert source.bytes[row] == len(PNG)
    "".join([*source.notes, *source.class_names]).encode("utf-8")


def test_linked_folders_are_followed_and_loops_are_not(tmp_path):
    root = plain(tmp_path / "photos")
    elsewhere = put(tmp_path / "elsewhere", "1.png", "2.png")
    (root / "train/owl").symlink_to(elsewhere)
    (root / "train/cat/again").symlink_to(root / "train")
    (root / "train/dog/self").symlink_to(root / "train/dog")
    found = scan_folder(root)
    assert labels_of(found)["train/owl/2.png"] == ("train", "owl")
    assert len(found.files) == 26
    assert noted(found, "lead back", "train/cat/again", "train/dog/self")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    root = plain(tmp_path / "photos")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("train/dog"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(folder_scan.os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"photos/train/dog cannot be read \(Permission denied\)"):
        scan_folder(root)


def test_images_beside_class_folders_are_splits_of_their_own_without_labels(tmp_path):
    names = ["train/loose2.png", "train/loose1.png", "val/loose.png", "top.png"]
    found = scan_folder(put(plain(tmp_path / "photos"), *names))
    assert found.files[24:] == ["train/loose1.png", "train/loose2.png", "val/loose.png"]
    assert found.splits[24:].tolist() == ["train_unlabeled", "train_unlabeled", "validation_unlabeled"]
    assert found.labels[23:].tolist() == [1, -1, -1, -1]
    assert found.labels.dtype == np.int64
    assert found.unlabeled == 4
    assert noted(found, "train_unlabeled (2)", "validation_unlabeled (1)")
    assert noted(found, "1 images outside class folders", "left out", "top.png")


def test_a_test_folder_of_images_alone_is_not_as_if_it_were_not_there(tmp_path):
    """As competitions have it: train/<class>/*, test/*."""
    found = scan_folder(put(plain(tmp_path / "photos", splits=("train",)), "test/1.png", "test/2.png"))
    assert found.splits[8:].tolist() == ["test_unlabeled"] * 2
    assert noted(found, "The test split has no labels")
    assert not noted(found, "as if not there")


def test_a_folder_without_class_folders_says_what_it_holds_and_what_to_do(tmp_path):
    root = put(tmp_path / "photos", "1.png", "2.png", "labels.csv")
    with pytest.raises(ValueError, match=r"holds 2 images outside class folders.*--dataset .*photos/labels\.csv"):
        scan_folder(root)


def test_a_folder_around_the_dataset_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds only photos, whose folders are splits: give --dataset .*/x/photos\."):
        scan_folder(plain(tmp_path / "x" / "photos").parent)


def test_classes_whose_names_differ_in_blanks_or_unicode_form_are_one(tmp_path):
    found = scan_folder(
        put(plain(tmp_path / "photos"), "train/cafe\u0301/1.png", "val/caf\u00e9/1.png", "test/cat /9.png")
    )
    assert found.class_names == ["caf\u00e9", "cat", "dog"]
    assert noted(found, "'cat ' as 'cat'")


def test_classes_that_train_lacks_are_a_warning_with_the_ceiling(tmp_path):
    found = scan_folder(put(plain(tmp_path / "photos"), *(f"test/owl/{n}.png" for n in range(8))))
    assert noted(found, "test has 1 of 3 classes that train lacks", "owl", "At most 50.0% of test")
    assert not noted(found, "validation has")


def test_classes_of_one_image_each_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"12 classes of one image each .*nothing can be learned"):
        scan_folder(put(tmp_path / "photos", *(f"c{n}/0.png" for n in range(12))))


def test_one_class_is_a_warning(tmp_path):
    assert noted(scan_folder(plain(tmp_path / "photos", classes=("cat",))), "only one class, cat")


def test_classes_that_differ_only_in_case_are_a_warning(tmp_path):
    found = scan_folder(put(plain(tmp_path / "photos"), *(f"train/Cat/{n}.png" for n in range(4))))
    assert noted(found, "differ only in case", "Cat and cat")


def test_the_name_is_that_of_the_folder_however_it_is_given(tmp_path, monkeypatch):
    root = plain(tmp_path / "photos")
    monkeypatch.chdir(root / "train")
    assert scan_folder(Path("..")).name == "photos"


def test_another_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no classification task 'weather'; it has: image_classification"):
        find_dataset(str(plain(tmp_path / "photos")), "weather")


def test_a_table_beside_the_only_class_is_pointed_at(tmp_path):
    folder = plain(tmp_path / "photos", classes=("images",))
    (folder / "labels.csv").write_text("path,label\n")
    assert noted(scan_folder(folder), f"--dataset {folder}/labels.csv")


def test_tables_in_folders_of_loose_images_are_pointed_at(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_bytes(PNG)
        (tmp_path / split / "metadata.csv").write_text("file_name,label\na.png,cat\n")
    with pytest.raises(ValueError, match=r"--dataset .*/train/metadata\.csv"):
        scan_folder(tmp_path)
