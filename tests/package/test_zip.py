"""`hafnia trainer create-zip .`: all that the image and the launch need, and nothing large or private."""

import re
import zipfile

import pytest

ALLOWED = re.compile(
    r"src/trainer_classification/(\w+/)*(\w+\.py|py\.typed)"
    r"|src/trainer_classification/outputs/report_page/page\.(html|css|js)"
    r"|scripts/\w+(\.py|\.schema\.json)"
    r"|Dockerfile|pyproject\.toml|uv\.lock|\.python-version|README\.md|LICENSE"
)
NEEDED = {
    "Dockerfile",
    "README.md",
    "pyproject.toml",
    "uv.lock",
    "scripts/train.py",
    "scripts/train.schema.json",
    "scripts/prepare.schema.json",
}
LARGEST = 2_000_000  # bytes


@pytest.fixture(scope="module")
def archive(hafnia, clone):
    """The zip of the second time: the first one lies in the folder by then."""
    for _ in range(2):
        hafnia("trainer", "create-zip", ".")
    return zipfile.ZipFile(clone / "trainer.zip")


def test_nothing_goes_in_that_is_not_on_the_allow_list(archive):
    assert [name for name in archive.namelist() if not ALLOWED.fullmatch(name)] == []


def test_nothing_planted_goes_in_under_any_name(archive):
    assert [name for name in archive.namelist() if b"not-to-be-seen" in archive.read(name)] == []


def test_all_that_is_needed_goes_in(archive, clone):
    names = set(archive.namelist())
    sources = {str(path.relative_to(clone)) for path in clone.glob("src/trainer_classification/**/*.py")}
    assert names >= NEEDED
    assert names >= sources
    assert len(sources) > 30
    assert "src/trainer_classification/outputs/report_page/page.html" in names


def test_it_stays_small(archive, clone):
    assert (clone / "trainer.zip").stat().st_size < LARGEST


def test_the_platform_takes_it_for_a_trainer_package(archive, clone):
    from hafnia.platform.builder import validate_trainer_package_format

    validate_trainer_package_format(clone / "trainer.zip")
