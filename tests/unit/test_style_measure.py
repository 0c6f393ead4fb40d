"""Each measure of style counts what it says, on snippets small enough to count by hand."""

from textwrap import dedent

import pytest
from style.measure import MEASURES, FileMeasures, Tally, find_files, format_table, format_worst_files, measure_source


def tally(key, source):
    return measure_source(dedent(source)).tallies[key]


def test_characters_count_code_and_docstrings_without_indentation_and_comments():
    source = """
    # a comment alone
    def f():
        '''Go.'''
        return 1  # why
    """
    assert tally("characters", source) == Tally(len("def f():") + len("'''Go.'''") + len("return 1  # why"), 3)


def test_lines_of_exactly_100_columns_are_not_long():
    fits = "x = '" + "a" * 94 + "'"
    source = f"{fits}\n\n{fits}  # a\n"
    assert len(fits) == 100
    assert tally("long_lines", source) == Tally(1, 3, ("3",))


def test_a_hash_in_a_text_is_no_comment():
    source = "text = '''\n# not a comment\n'''\nx = 1  # behind code\n# alone\n"
    assert tally("comments", source) == Tally(1, 5)


def test_double_bindings_are_pairs_on_both_sides():
    source = """
    a, b = 1, 2
    c, d = pair
    e = 1, 2
    f: int = 1
    f += 1
    """
    assert tally("double_bindings", source) == Tally(1, 3, ("2",))


def long_function(blank_in_docstring, blank_in_body):
    """Return the source of a function of 12 lines and more."""
    docstring = ["    '''Go.", *[""] * blank_in_docstring, "    '''"]
    body = [*["    pass"] * 5, *[""] * blank_in_body, *["    pass"] * 5]
    return "\n".join(["def f():", *docstring, "", *body])


def test_blank_lines_are_those_of_the_body_without_the_docstring():
    assert tally("blank_lines", long_function(3, 2)) == Tally(2, 12)
    assert tally("blank_lines", long_function(0, 0)) == Tally(0, 10, ("1 f",))


def test_short_functions_need_no_blank_lines():
    eleven = "def f():\n" + "    pass\n" * 10
    assert tally("blank_lines", eleven) == Tally()
    assert tally("blank_lines", eleven + "    pass\n").whole == 11


def test_nested_conditionals_are_counted_once_and_not_through_a_call():
    source = """
    x = 1 if a else 2 if b else 3
    y = f(1 if a else 2) if b else 3
    """
    assert tally("nested_conditionals", source) == Tally(1, 0, ("2",))


def test_conditionals_and_boolean_operators_may_stand_in_for_statements():
    source = """
    a() if b else c()
    a and b()
    a or b()
    x = a or b
    a()
    """
    assert tally("expression_statements", source) == Tally(3, 0, ("2", "3", "4"))


@pytest.mark.parametrize("name", ["begun", "_made_up", "loaded", "resized_by_pillow", "taken_over"])
def test_past_names_are_found(name):
    assert tally("past_names", f"def {name}(): pass") == Tally(1, 0, (f"1 {name}",))


@pytest.mark.parametrize(
    "name", ["begin", "feed", "embed_patches", "seed", "resized_crop", "read", "set_rate", "is_used"]
)
def test_verbs_in_the_present_and_adjectives_are_not_past_names(name):
    assert tally("past_names", f"def {name}(): pass").part == 0


def test_properties_may_be_participles():
    source = """
    class A:
        @functools.cached_property
        def prepared(self): ...
        @property
        def finished(self): ...
        @staticmethod
        def begun(): ...
    """
    assert tally("past_names", source) == Tally(1, 0, ("8 begun",))


def test_functions_over_40_lines_are_long_whatever_their_decorators():
    forty = "@a\n@b\ndef f():\n" + "    pass\n" * 39
    assert tally("long_functions", forty).part == 0
    assert tally("long_functions", forty + "    pass\n") == Tally(1, 0, ("3 f",))


def test_annotated_functions_have_types_for_everything_but_self():
    source = """
    def full(a: int, *b: int, c: int = 1, **d: int) -> None: ...
    def no_result(a: int): ...
    def no_star(*b) -> None: ...
    class A:
        def method(self) -> None: ...
    """
    assert tally("annotated", source) == Tally(2, 4, ("3 no_result", "4 no_star"))


def test_the_table_joins_files_by_their_counts_and_not_by_their_shares():
    total = FileMeasures()
    total.add(measure_source("a, b = 1, 2\n"))
    total.add(measure_source("a = 1\n" * 3))
    assert "| `a, b = x, y` of all assignments | 25.0% | < 2% |" in format_table(total)


def test_the_table_shows_the_length_of_functions():
    total = measure_source("\n".join("def f():\n" + "    pass\n" * (lines - 1) for lines in range(2, 12)))
    assert sorted(total.lengths) == list(range(2, 12))
    assert "| lines a function, median / 90th percentile | 6 / 11 |" in format_table(total)


def test_the_worst_files_are_those_with_most_to_mend():
    files = {
        "one.py": measure_source("a, b = 1, 2\n"),
        "many.py": measure_source("a = 1\n" * 10 + "a, b = 1, 2\n" * 3),
        "none.py": measure_source("a = 1\n"),
    }
    section = format_worst_files(files, 5).split("## ")[list(MEASURES).index("double_bindings") + 1]
    rows = [line for line in section.splitlines() if ".py |" in line]
    assert rows == ["| many.py | 23.1% | 11, 12, 13 |", "| one.py | 100.0% | 1 |"]


def test_hidden_and_excluded_folders_are_left_out(tmp_path):
    for name in ("src/a.py", "src/bench/b.py", "src/benches.py", "src/.cache/c.py", "src/d.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = find_files(tmp_path, ["src"], ["src/bench"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["src/a.py", "src/benches.py"]
