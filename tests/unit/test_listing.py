"""Reading tables of paths, labels and splits, and the tables of Hafnia datasets, with the faults that people's have."""

import json
from pathlib import Path

import polars as pl
import pytest

from helpers import TASK, encoded, noise, rows, write_dataset
from trainer_classification.data.listing import ListingOptions, read_listing
from trainer_classification.data.source import find_dataset, read_folder

PNG = encoded(noise(0))
HEADER = "path,label,split\n"
PLAIN = HEADER + "a.png,cat,train\nb.png,dog,train\nc.png,cat,val\nd.png,dog,test\n"


def write(folder: Path, content: str | bytes, name: str = "photos.csv") -> Path:
    """Write a table, and the images a.png ... h.png beside it."""
    for letter in "abcdefgh":
        (folder / f"{letter}.png").write_bytes(PNG)
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows_of(found) -> list[tuple[str, str, str]]:
    names = [found.class_names[label] if label >= 0 else "" for label in found.labels]
    return list(zip(found.files, names, found.splits.tolist(), strict=True))


def noted(found, *texts: str) -> bool:
    """Whether one note has all the texts."""
    return any(all(text in note for text in texts) for note in found.notes)


EXPECTED = [
    ("a.png", "cat", "train"),
    ("b.png", "dog", "train"),
    ("c.png", "cat", "validation"),
    ("d.png", "dog", "test"),
]


def test_a_csv_is_taken_with_its_columns_said(tmp_path):
    found = read_listing(write(tmp_path, PLAIN))
    assert rows_of(found) == EXPECTED
    assert (found.name, found.root) == ("photos", tmp_path)
    assert noted(found, "photos.csv: paths from column path, labels from column label, splits from column split")


def test_the_dataset_option_takes_a_table(tmp_path, monkeypatch):
    write(tmp_path, PLAIN)
    monkeypatch.chdir(tmp_path)
    source = find_dataset("photos.csv")
    assert source.paths == [str(tmp_path / f"{letter}.png") for letter in "abcd"]
    assert source.bytes.tolist() == [len(PNG)] * 4
    with pytest.raises(ValueError, match=r"There is no file other\.csv"):
        find_dataset("other.csv")


def as_objects() -> list[dict]:
    return [dict(zip(("path", "label", "split"), row, strict=True)) for row in EXPECTED]


def as_json_lines() -> str:
    return "".join(json.dumps(row) + "\n" for row in as_objects())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.tsv", PLAIN.replace(",", "\t")),
        ("t.csv", PLAIN.replace(",", ";")),
        ("t.csv", PLAIN.replace("\n", "\r\n")),
        ("t.csv", b"\xef\xbb\xbf" + PLAIN.encode()),
        ("t.csv", PLAIN.encode("utf-16")),
        ("t.csv", PLAIN + "\n,,\n"),
        ("t.csv", PLAIN.removeprefix(HEADER)),
        ("t.jsonl", as_json_lines()),
        ("t.ndjson", b"\xef\xbb\xbf" + as_json_lines().encode()),
        ("t.json", json.dumps(as_objects(), indent=1)),
    ],
)
def test_every_usual_kind_of_table_is_read(tmp_path, name, content):
    assert rows_of(read_listing(write(tmp_path, content, name))) == EXPECTED


def test_a_parquet_file_is_read(tmp_path):
    write(tmp_path, "")
    pl.DataFrame(as_objects()).write_parquet(tmp_path / "t.parquet")
    assert rows_of(read_listing(tmp_path / "t.parquet")) == EXPECTED


@pytest.mark.parametrize("header", ["File_Path,Class Name,subset", "image,category,partition", "filename,target,set"])
def test_columns_are_guessed_from_usual_names(tmp_path, header):
    assert rows_of(read_listing(write(tmp_path, PLAIN.replace(HEADER, f"{header}\n")))) == EXPECTED


def test_columns_are_given_by_name(tmp_path):
    path = write(tmp_path, PLAIN.replace(HEADER, "path,what,when\n"))
    with pytest.raises(ValueError, match=r"no column.*labels; it has path, what, when: name it with --label-column"):
        read_listing(path)
    options = ListingOptions(label_column="what", split_column="when")
    assert rows_of(read_listing(path, options)) == EXPECTED
    with pytest.raises(ValueError, match=r"no column 'kind' \(--label-column\); it has path, what, when"):
        read_listing(path, ListingOptions(label_column="kind"))


def test_columns_that_are_not_used_are_named(tmp_path):
    path = write(tmp_path, "path,label,is_valid,fold\na.png,cat,False,1\nb.png,dog,True,2\n")
    assert noted(read_listing(path), "labels from column label; not used: is_valid, fold.")
    assert not noted(read_listing(write(tmp_path, PLAIN)), "not used")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,label,label", r"2 columns for the labels, label, label: rename one of them"),
        ("path,Label,label", r"2 columns for the labels, Label, label: name one with --label-column"),
        ("path,path,label", r"2 columns for the paths, path, path: rename one"),
    ],
)
def test_two_columns_of_one_name_are_refused(tmp_path, header, message):
    path = write(tmp_path, f"{header}\na.png,cat,x\nb.png,dog,y\n")
    with pytest.raises(ValueError, match=message):
        read_listing(path)
    if "rename" not in message:
        assert read_listing(path, ListingOptions(label_column="label")).class_names == ["x", "y"]
    else:
        with pytest.raises(ValueError, match=message):
            read_listing(path, ListingOptions(**{f"{header.split(',')[1]}_column": header.split(",")[1]}))


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;"])
def test_excels_first_line_is_the_delimiter(tmp_path, line):
    table = PLAIN.replace(",", ";")
    assert rows_of(read_listing(write(tmp_path, f"{line}\r\n{table}"))) == EXPECTED
    with pytest.raises(ValueError, match="line 7 has 2 cells, but line 2 has 3"):
        read_listing(write(tmp_path, f"{line}\n{table}e.png;cat\n"))


ONE_HOT = "image,cat,dog,owl\na.png,1,0,0\nb.png,0,1,0\nc.png,0.0,0.0,1.0\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", ONE_HOT, r"a column for each class.*\(cat, dog, owl\): make one column.*idxmax.*docs/training\.md"),
        (
            "t.csv",
            "image,age,cat,dog,owl\na.png,7,1,0,0\nb.png,8,0,1,0\n",
            r"a column for each class.*\(cat, dog, owl\)",
        ),
        (
            "t.csv",
            "image,cat,dog\na.png,1,1\nb.png,0,0\n",
            "none or several of them.*train one of them .--label-column cat",
        ),
        ("t.csv", "image,what,old,ill\na.png,x,1,0\nb.png,y,0,1\n", "no column that is known to hold the labels"),
        (
            "t.json",
            '{"images": [{"id": 1}],\n "annotations": [], "categories": []}',
            "is a COCO file .*file_name and label",
        ),
        ("t.json", '{"images": [], "annotations": []}', "is a COCO file .*docs/training.md, Labels in other forms"),
        ("t.json", '{"a.png": "cat",\n "b.png": "dog"}', "one object of paths and labels"),
        ("t.json", '{"cat": ["a.png"], "dog": ["b.png"]}', "one object of lists"),
    ],
)
def test_labels_in_other_forms_are_named_with_the_way_out(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read_listing(write(tmp_path, content, name))


def test_one_class_of_a_column_for_each_is_refused_and_of_attributes_taken(tmp_path):
    with pytest.raises(ValueError, match="a column for each class"):
        read_listing(write(tmp_path, ONE_HOT), ListingOptions(label_column="cat"))
    attributes = write(tmp_path, "image,smiles,old\na.png,1,1\nb.png,0,0\nc.png,0,1\n")
    assert read_listing(attributes, ListingOptions(label_column="smiles")).class_names == ["0", "1"]


def labeled(*labels: object) -> str:
    return "path,label\n" + "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels))


def test_labels_that_are_all_different_are_refused(tmp_path):
    write(tmp_path, "")
    (tmp_path / "0.png").write_bytes(PNG)
    with pytest.raises(ValueError, match=r"160 classes of one image each .*look like measurements.*pandas\.cut"):
        read_listing(write(tmp_path, labeled(*(n + 0.5 for n in range(160)))))
    with pytest.raises(ValueError, match=r"20 classes of one image each .*several images must be of one class\.$"):
        read_listing(write(tmp_path, labeled(*(f"id{n}" for n in range(20)))))


@pytest.mark.parametrize(
    ("labels", "is_noted"),
    [
        ([n / 4 for n in range(20)] * 3, True),
        ([*range(20), 3], True),
        ([*range(20)] * 3, False),
        ([0.5, 1, 2] * 9, False),
        ([*map(str, range(20)), "x", "x"], False),
    ],
)
def test_numbers_that_look_like_measurements_are_noted(tmp_path, labels, is_noted):
    (tmp_path / "0.png").write_bytes(PNG)
    found = read_listing(write(tmp_path, labeled(*labels)))
    assert noted(found, "look like measurements", "group them by ranges") == is_noted


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a|d", "a", "d", "b"], "1 of 4 labels seem to be several classes, with | between them: a|d"),
        (["a;b", "b;c", "a;c"], "3 of 3 labels seem to be several classes, with ; between them"),
        (["tench|fish", "shark|man-eater", "a"], ""),
    ],
)
def test_labels_of_several_classes_are_noted(tmp_path, labels, said):
    (tmp_path / "0.png").write_bytes(PNG)
    found = read_listing(write(tmp_path, labeled(*labels, *labels)))
    assert noted(found, said or "seem to be several classes") == bool(said)


def test_without_a_split_column_or_with_an_empty_one_all_train_and_it_is_said(tmp_path):
    for content in ("path,label\na.png,cat\nb.png,dog\n", HEADER + "a.png,cat,\nb.png,dog, \n"):
        found = read_listing(write(tmp_path, content))
        assert found.splits.tolist() == ["train", "train"]
        assert noted(found, "no splits", "cut")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + "a.png,cat,train\nb.png,dog,\n", "line 3 has no split"),
        (HEADER + "a.png,cat,train\nb.png,dog,extra\n", "line 3 has the split 'extra'.*--unknown-folders train"),
        (HEADER + "\na.png,cat,train\n,dog,train\n", "line 4 has no path"),
        (HEADER + "a.png,cat,train\nb.png,a, dog,train\n", "line 3 has 4 cells, but line 1 has 3"),
        (HEADER + 'a.png,cat,train\n"b.png,dog,train\n', "line 3 cannot be read .*quotes"),
        (HEADER + "C:\\photos\\a.png,cat,train\n", r"line 2 has the Windows path .*as 'photos/a\.png'"),
        (HEADER + "x\\a.png,cat,train\n", r"line 2 has the Windows path 'x\\\\a.png'.*as 'x/a\.png'"),
        (HEADER + "https://x.y/a.png,cat,train\n", "line 2 has the address .*download"),
        (HEADER + "a.png,cat,train\n./a.png,dog,train\n", "line 3 gives ./a.png the label 'dog', but line 2 .*'cat'"),
        (HEADER + "a.png,cat,train\na.png,cat,test\n", "line 3 gives a.png the split 'test', but line 2 .*'train'"),
        (HEADER + "a.png,cat,val\n", "no rows to train on, only validation"),
        (HEADER + "a.png,,train\n", "no label in any of its 1 rows"),
        (HEADER, "has no rows"),
        ("", "has no rows"),
        (HEADER + "x/y.png,cat,train\n", r"line 2 names x/y\.png, but there is no .*relative to the table's folder"),
        (PLAIN.encode().replace(b"dog", b"d\xf6g", 1), "line 3 is not UTF-8 .byte 0xf6"),
        ("a.png\nb.png\n", "no line of column names and 1 columns"),
    ],
)
def test_a_faulty_csv_is_one_sentence_with_file_and_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_listing(write(tmp_path, content))
    assert str(tmp_path / "photos.csv") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (as_json_lines() + '{"path": "e.png"\n', "line 5 is not JSON"),
        ('{"path": "a.png", "label": "cat"}\n["b.png", "dog"]\n', "line 2 is no object"),
        ('{"path": "a.png", "label": "cat"}\n\n{"path": "b.png", "label": ["x"]}\n', "line 3 has a list as its label"),
        ('[{"path": "a.png", "label": "cat"},\n{"path"]', "line 2 is not JSON"),
    ],
)
def test_faulty_json_is_one_sentence_with_file_and_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_listing(write(tmp_path, content, "photos.jsonl"))
    assert str(tmp_path / "photos.jsonl") in str(raised.value)


def test_a_cut_parquet_file_is_named(tmp_path):
    pl.DataFrame(as_objects()).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"t\.parquet is no whole parquet file .*: copy or write it again"):
        read_listing(tmp_path / "t.parquet")


def test_another_file_is_refused_by_what_can_be_read(tmp_path):
    (tmp_path / "photos.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"photos\.xlsx is no table that can be read: give a \.csv, \.tsv"):
        find_dataset(str(tmp_path / "photos.xlsx"))


def test_rows_of_unknown_splits_are_left_out_or_taken_for_training(tmp_path):
    path = write(tmp_path, PLAIN + "e.png,cat,extra\n")
    skipped = read_listing(path, ListingOptions(unknown_splits="skip"))
    assert rows_of(skipped) == EXPECTED
    assert noted(skipped, "1 rows of other splits are left out")
    taken = read_listing(path, ListingOptions(unknown_splits="train"))
    assert rows_of(taken)[4] == ("e.png", "cat", "train")


def test_blanks_and_unicode_forms_of_labels_are_one_class_with_a_note(tmp_path):
    found = read_listing(write(tmp_path, "path,label\na.png,caf\u00e9\nb.png,cafe\u0301\nc.png,cat \nd.png,cat\n"))
    assert found.class_names == ["caf\u00e9", "cat"]
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert noted(found, "'cat ' as 'cat'")


def test_labels_that_differ_in_case_are_kept_apart_with_a_warning(tmp_path):
    found = read_listing(write(tmp_path, "path,label\na.png,Cat\nb.png,cat\n"))
    assert found.class_names == ["Cat", "cat"]
    assert noted(found, "differ only in case", "Cat and cat")


def test_numbers_as_labels_are_ordered_by_value_also_as_floats(tmp_path):
    write(tmp_path, "")
    table = {"path": ["a.png", "b.png", "c.png", "d.png"], "label": [10.0, 9.0, None, float("nan")]}
    pl.DataFrame(table).write_parquet(tmp_path / "t.parquet")
    found = read_listing(tmp_path / "t.parquet")
    assert found.class_names == ["9", "10"]
    assert (found.labels.tolist(), found.unlabeled) == ([1, 0, -1, -1], 2)


def test_repeated_rows_are_left_out_and_counted(tmp_path):
    """A row without a label does not contradict one that has it."""
    found = read_listing(write(tmp_path, PLAIN + "a.png,cat,train\nb.png,,train\n"))
    assert rows_of(found) == EXPECTED
    assert found.unlabeled == 0
    assert noted(found, "2 rows name an image again")


def test_rows_without_a_label_are_splits_of_their_own(tmp_path):
    """A test split without labels, as competitions have it, is predicted and never replaced by a cut of train."""
    listed = HEADER + "e.png, ,test\na.png,cat,train\nf.png,,train\nb.png,dog,train\n"
    found = read_listing(write(tmp_path, listed))
    assert rows_of(found) == [
        ("a.png", "cat", "train"),
        ("b.png", "dog", "train"),
        ("e.png", "", "test_unlabeled"),
        ("f.png", "", "train_unlabeled"),
    ]
    assert found.class_names == ["cat", "dog"]
    assert found.unlabeled == 2
    assert noted(found, "kept as splits of their own", "train_unlabeled (1)", "test_unlabeled (1)")
    assert noted(found, "The test split has no labels")


def test_a_table_with_labels_outside_train_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no rows to train on, only test"):
        read_listing(write(tmp_path, HEADER + "a.png,cat,test\nb.png,,train\n"))
    path = write(tmp_path, HEADER + "a.png,cat,fold1\nb.png,dog,fold1\n")
    with pytest.raises(ValueError, match="no rows to train on, only other splits"):
        read_listing(path, ListingOptions(unknown_splits="skip"))


def test_a_name_with_a_backslash_is_taken_where_there_is_such_a_file(tmp_path):
    path = write(tmp_path, "path,label\na\\b.png,cat\nc.png,dog\n")
    (tmp_path / "a\\b.png").write_bytes(PNG)
    assert read_listing(path).files == ["a\\b.png", "c.png"]


def test_absolute_paths_and_missing_files_are_left_to_preparing(tmp_path):
    path = write(tmp_path, f"path,label\n{tmp_path}/a.png,cat\nnot-there.png,dog\n")
    source = find_dataset(str(path))
    assert source.paths == [str(tmp_path / "a.png"), str(tmp_path / "not-there.png")]
    assert source.bytes.tolist() == [len(PNG), 0]


def test_a_table_of_a_hafnia_dataset_stands_for_its_folder(tmp_path):
    folder = write_dataset(tmp_path / "d", rows(4), ["a", "b"])
    assert find_dataset(str(folder / "annotations.parquet")).name == "tiny"


# Tables of Hafnia datasets


def hafnia(folder: Path, change=None, class_names=("a", "b"), **more) -> Path:
    """Write a Hafnia dataset of six images and change its table."""
    write_dataset(folder, rows(6, **more), list(class_names))
    path = folder / "annotations.parquet"
    if change is not None:
        change(pl.read_parquet(path)).write_parquet(path)
    return folder


def label(name: str, task: str = TASK) -> dict:
    return {"class_name": name, "class_idx": "ab".index(name), "task_name": task}


def with_labels(labels):
    return lambda table: table.with_columns(pl.Series("classifications", labels, dtype=table["classifications"].dtype))


def set_first(column, value):
    return lambda table: table.with_columns(
        pl.Series(column, [value, *table[column].to_list()[1:]], dtype=table[column].dtype)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_first("split", None), r"annotations\.parquet, row 1 \(data/00000\.png\) has no split: write train"),
        (lambda t: t.with_columns(split=None), r"row 1 .*has no split, as 6 of 6 rows have"),
        (lambda t: t.drop("split"), r"annotations\.parquet, row 1 .*no column 'split'.*add it"),
        (lambda t: t.drop("file_path"), r"annotations\.parquet, row 1 .*no column 'file_path'"),
        (lambda t: t.with_columns(classifications=pl.lit("a")), "column 'classifications' is String, not lists"),
        (lambda t: t.with_columns(split=1), r"column 'split' is .*, not text"),
        (set_first("file_path", None), "row 1 has no path"),
        (set_first("split", ""), r"annotations\.parquet, row 1 \(data/00000\.png\) has no split: write train"),
        (set_first("file_path", ""), "row 1 has no path"),
        (lambda t: t.head(0), r"annotations\.parquet has no rows"),
        (lambda t: t.with_columns(split=pl.lit("fold1")), r"no row is of the split train, .*only of fold1: write"),
        (set_first("file_path", "data\\00000.png"), r"row 1 has the Windows path .*as 'data/00000\.png'"),
        (with_labels([[label("a"), label("b")]] * 2 + [[label("a")]] * 4), "row 1 .*2 labels .*a, b; 2 of 6 rows"),
    ],
)
def test_a_faulty_hafnia_table_is_one_sentence_with_file_row_and_remedy(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_folder(hafnia(tmp_path / "d", change))
    assert str(tmp_path / "d/annotations.parquet") in str(raised.value)


def test_the_same_label_twice_is_one_and_other_tasks_do_not_count(tmp_path):
    labels = [[label("a"), label("a"), label("b", "weather")]] * 3 + [[label("b")]] * 3
    assert read_folder(hafnia(tmp_path / "d", with_labels(labels))).labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_sizes_that_are_no_numbers_are_as_if_not_given(tmp_path):
    assert not read_folder(hafnia(tmp_path / "d", lambda t: t.with_columns(width=pl.lit("wide")))).sizes[:, 0].any()


def test_an_empty_column_of_labels_is_as_if_not_there(tmp_path):
    with pytest.raises(ValueError, match="no labelled images"):
        read_folder(hafnia(tmp_path / "d", lambda t: t.with_columns(classifications=None)))


def test_a_null_split_of_a_row_without_a_label_does_not_matter(tmp_path):
    def change(table):
        return set_first("split", None)(with_labels([[]] + [[label("b")]] * 5)(table))

    found = read_folder(hafnia(tmp_path / "d", change))
    assert (len(found.files), found.unlabelled) == (5, 1)


def test_a_class_that_is_listed_twice_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"dataset_info\.json lists the class 'a' 2 times, with the indices 0 and 2"):
        read_folder(hafnia(tmp_path / "d", class_names="aba"))


def test_a_class_without_a_name_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"dataset_info\.json lists a class without a name, with the index 2"):
        read_folder(hafnia(tmp_path / "d", class_names=["a", "b", " "]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"dataset_name": ', r"dataset_info\.json, line 1 is not JSON"),
        (b"\xef\xbb\xbf{}", r"dataset_info\.json, line 1 begins with a byte-order mark"),
        (b"{}", r"dataset_info\.json has no 'dataset_name'"),
        (
            b'{"dataset_name": "d", "tasks": [{"name": "t"}]}',
            r"dataset_info\.json: task 1 lacks its name, its primitive",
        ),
        (b'"x"', r"dataset_info\.json has no 'dataset_name'"),
        (b"\xff", r"dataset_info\.json is not UTF-8"),
    ],
)
def test_a_broken_dataset_info_is_named(tmp_path, content, message):
    folder = hafnia(tmp_path / "d")
    (folder / "dataset_info.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_folder(folder)


def test_broken_annotations_are_named(tmp_path):
    folder = hafnia(tmp_path / "d")
    path = folder / "annotations.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"annotations\.parquet is cut short or broken .*download"):
        read_folder(folder)
    path.unlink()
    (folder / "annotations.jsonl").write_text('{"file_path": "a.png"}\n{"file_path"\n')
    with pytest.raises(ValueError, match=r"annotations\.jsonl, line 2 is not JSON"):
        read_folder(folder)
    (folder / "annotations.jsonl").write_bytes(b'\xef\xbb\xbf{"file_path": "a.png"}\n')
    with pytest.raises(ValueError, match=r"annotations\.jsonl, line 1 begins with a byte-order mark"):
        read_folder(folder)
    (folder / "annotations.jsonl").write_text('{"file_path": "a.png"}\n["b.png"]\n')
    with pytest.raises(ValueError, match=r"annotations\.jsonl, line 2 is a list, not an object"):
        read_folder(folder)


def test_annotations_without_dataset_info_are_no_folder_of_images(tmp_path):
    folder = hafnia(tmp_path / "d")
    (folder / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match=r"has annotations\.parquet but no dataset_info\.json"):
        read_folder(folder)


def test_labels_in_another_form_are_matched_with_a_note_and_in_another_case_an_error(tmp_path):
    folder = write_dataset(tmp_path / "d", [*rows(4), *rows(1, classes=["a "], seed=9)], ["a", "b"])
    found = read_folder(folder)
    assert found.labels.tolist() == [0, 1, 0, 1, 0]
    assert noted(found, "'a ' as 'a'")
    with pytest.raises(ValueError, match=r"annotations\.parquet, row 1: .*the class 'A', .*: write 'a'"):
        read_folder(write_dataset(tmp_path / "e", rows(4, classes="Ab"), ["a", "b"]))


def test_splits_are_known_in_any_case(tmp_path):
    def change(table):
        return table.with_columns(split=pl.Series(["Train", "TRAIN", "dev", "Valid", "testing", "eval"]))

    found = read_folder(hafnia(tmp_path / "d", change))
    assert found.splits.tolist() == ["train", "train", "validation", "validation", "test", "test"]


def test_sizes_of_the_files_are_right_where_the_table_says_others(tmp_path):
    found = read_folder(hafnia(tmp_path / "d", width=32, height=32))
    assert not found.sizes.any()
    assert noted(found, "other sizes", "32x32 instead of 12x12")
    agreed = read_folder(hafnia(tmp_path / "e"))
    assert agreed.sizes.tolist() == [[12, 12]] * 6
    assert not noted(agreed, "other sizes")


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (("{}.png", "{}"), "found in images/ with .png behind the name"),
        (("{}.png", "{}.png"), "found in images/."),
        (("{}.1.PNG", "{}.1"), "found in images/ with .PNG behind the name"),
    ],
)
def test_files_are_found_in_one_folder_beside_the_table(tmp_path, names, note):
    stored, named = names
    for folder in ("images", "other"):
        (tmp_path / folder).mkdir()
    for letter in "uvwx":
        (tmp_path / "images" / stored.format(letter)).write_bytes(PNG)
    lines = [f"{named.format(letter)},{label}\n" for letter, label in zip("uvwx", "abab", strict=True)]

    found = read_listing(write(tmp_path, "id,label\n" + "".join(lines)))

    assert found.files == [f"images/{stored.format(letter)}" for letter in "uvwx"]
    assert noted(found, note)


def test_files_without_a_suffix_beside_the_table_are_found(tmp_path):
    found = read_listing(write(tmp_path, "id,label\na,cat\nb,dog\n"))
    assert found.files == ["a.png", "b.png"]


def test_files_that_two_folders_have_are_refused(tmp_path):
    for folder in ("large", "small"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "u.png").write_bytes(PNG)
    with pytest.raises(ValueError, match=r"any of large/u\.png, small/u\.png: write paths relative"):
        read_listing(write(tmp_path, "path,label\nu.png,cat\n"))
