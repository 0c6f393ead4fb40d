"""`hafnia experiment create` and what goes with it, against a stub of the platform: the zip and the forms it gets."""

import io
import json
import shlex
import subprocess
import sys
import zipfile

import pytest
from stub_platform import platform
from test_zip import ALLOWED, NEEDED

from trainer_classification import cli
from trainer_classification.config import COMMANDS
from trainer_classification.options import options_of

COMMAND = "python scripts/train.py --epochs 1"
CONFIGS = {f"scripts/{name}.py": config for name, config in COMMANDS.items()}
# Those whose options may be given one by one; predict's belong together, which tests/unit/test_cli.py checks.
SINGLE_OPTIONS = ("scripts/train.py", "scripts/prepare.py", "scripts/evaluate.py")


@pytest.fixture
def stub():
    with platform() as server:
        yield server


def create(hafnia, stub, *options, code=0):
    return hafnia("experiment", "create", "--dataset", "mnist", *options, code=code, **stub.environment)


def test_an_experiment_is_created_with_the_command_and_the_environment_given(hafnia, stub):
    said = create(hafnia, stub, "--trainer-path", ".", "--cmd", COMMAND, "--environment", "Professional", "-n", "mine")
    assert "Successfully created experiment" in said
    assert stub.sent("POST", "experiments") == {
        "name": "mine",
        "trainer": "trainer-1",
        "dataset_recipe": "recipe-1",
        "command": COMMAND,
        "environment": "env-pro",
    }
    assert stub.sent("POST", "dataset-recipes")["template"] == {"body": "mnist"}


def test_the_first_environment_by_its_order_is_taken_where_none_is_given(hafnia, stub):
    create(hafnia, stub, "--trainer-path", ".")
    sent = stub.sent("POST", "experiments")
    assert (sent["environment"], sent["command"]) == ("env-free", "python scripts/train.py")


def test_the_zip_that_arrives_is_the_package(hafnia, stub):
    create(hafnia, stub, "--trainer-path", ".")
    names = set(zipfile.ZipFile(io.BytesIO(stub.sent("POST", "trainers")["file"])).namelist())
    assert names >= NEEDED
    assert [name for name in names if not ALLOWED.fullmatch(name)] == []


def test_the_forms_that_arrive_are_the_committed_ones_with_training_first(hafnia, stub, clone):
    create(hafnia, stub, "--trainer-path", ".")
    forms = json.loads(stub.sent("POST", "trainers")["command_builder_schemas"])
    assert [form["name"] for form in forms] == list(CONFIGS)
    for form in forms:
        assert form == json.loads((clone / form["name"]).with_suffix(".schema.json").read_text())
        assert form["json_schema"]["properties"].keys() == options_of(CONFIGS[form["name"]]).keys()


def test_a_trainer_uploaded_once_is_updated_and_launched_by_its_id_and_watched(hafnia, stub):
    hafnia("trainer", "create", ".", "--name", "classifier", **stub.environment)
    hafnia("trainer", "update", "trainer-1", "--path", ".", **stub.environment)
    assert zipfile.ZipFile(io.BytesIO(stub.sent("PATCH", "trainers/trainer-1")["file"])).testzip() is None
    create(hafnia, stub, "--trainer-id", "trainer-1", "--name", "watched")
    assert "Free Tier" in hafnia("experiment", "environments", **stub.environment)
    assert "watched" in hafnia("experiment", "ls", **stub.environment)


def test_the_command_of_the_public_readme_lacks_a_trainer(hafnia, stub):
    assert "At least one trainer identifier" in create(hafnia, stub, code=2)


def values_of(kind, option, default):
    """What a form may give for an option: the choices, the bounds, and strings that a shell would take apart."""
    if getattr(kind, "__args__", ()):
        return list(kind.__args__)
    if isinstance(default, bool):
        return [True, False]
    if isinstance(default, str):
        # Not a backslash, nor both kinds of quotes: the SDK's builder quotes for Python, which a shell reads otherwise.
        return ["", "plain", "two words", "it's", 'a "quoted" word', "$HOME; true", "/a/path", "-1"]
    bounds = [bound for bound in (option.at_least, option.at_most) if abs(bound) < 2**31]
    return [default, *map(type(default), bounds), *([1e-05] if isinstance(default, float) else [])]


# Options that do not take just any value of their type.
CHECKED = {
    "name": ["first try", "grün 2.5"],
    "formats": ["", "tar", "array,beton"],
    "test_fraction": [0.2, 0.01, 0.9],
}

FIELDS = [
    pytest.param(script, name, CHECKED.get(name) or values_of(kind, option, default), id=f"{script[8:-3]}-{name}")
    for script, config in CONFIGS.items()
    if script in SINGLE_OPTIONS
    for name, (kind, option, default) in options_of(config).items()
]


def config_of(script, argv):
    got = []
    code = cli.run(CONFIGS[script], got.append, argv)
    assert code == 0
    return got[0]


@pytest.mark.parametrize(("script", "name", "values"), FIELDS)
def test_each_value_of_a_form_arrives_in_the_config_through_a_shell_and_without_one(script, name, values):
    from hafnia.experiment.command_builder import CommandBuilderSchema

    from trainer_classification.forms import SCRIPTS

    schema = CommandBuilderSchema.from_json_file(SCRIPTS.parent / script.replace(".py", ".schema.json"))
    for value in values:
        command = " ".join(schema.command_args_from_form_data({name: value}))
        expected = CONFIGS[script](**{name: value})
        assert config_of(script, shlex.split(command)[2:]) == expected
        assert config_of(script, command.split(" ")[2:]) == expected, "as `hafnia runc launch-local` splits it"


def test_a_real_shell_gives_what_the_form_said():
    from trainer_classification.forms import schema

    text = 'a "name" of $HOME; true'
    arguments = schema("train").command_args_from_form_data({"project_name": text}, include_cmd=False)
    echo = shlex.join([sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"])
    said = subprocess.run(["sh", "-c", f"{echo} {' '.join(arguments)}"], capture_output=True, text=True, check=True)
    assert config_of("scripts/train.py", json.loads(said.stdout)).project_name == text
