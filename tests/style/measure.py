"""Measure the style of the code: `python tests/style/measure.py [FOLDER ...] [--exclude FOLDER ...] [--per-file]`

The figures describe the code and are no gate. Without folders, all code outside of tests is measured.

Definitions, over all measured files together:

- code line: a line that is neither blank nor a comment alone; lines of docstrings count. Its characters are counted
  without the indentation and without white space at the end.
- lines over 100 columns and full-line comments: shares of all lines, blank ones included.
- double binding: `a, b = x, y`, a tuple on both sides of an assignment; the share is of all plain assignments, so
  `a += 1` and `a: int = 1` do not count.
- blank lines in long bodies: of functions of 12 lines or more, `def` to end, the share of blank lines in the body; the
  docstring and the blank line after it do not belong to the body. A function inside another is counted in both.
- nested conditional: `a if b else c` with another such expression as one of its three parts.
- expression as a statement: `a if b else c`, `a and b()` or `a or b()` on a line of its own.
- past tense: the name is a past tense or a participle (`begun`), or begins with one before a small word (`taken_over`,
  `resized_by_pillow`). Before a noun it is an adjective and does not count (`resized_crop`), nor does a property.
- function length: lines from `def` to end, without decorators.
- fully annotated: each parameter other than self and cls has a type, and so has the result.
"""

import argparse
import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmarks", "examples", "findings", "samples", "scripts", "src")
LONG_LINE = 100
LONG_BODY = 12
LONG_FUNCTION = 40

Function = ast.FunctionDef | ast.AsyncFunctionDef


def split_words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


# Verbs in the present, and nouns, that end as a past tense does.
NOT_PAST = split_words(
    "bed bleed breed embed exceed feed hundred indeed need proceed red seed shed shred speed succeed wed weed"
)
# Past forms that do not end in "ed". Those that are also the present ("put", "set", "read", "cut") are left out.
IRREGULAR_PAST = split_words("""
    became been began begun bent born borne bought bound broke broken brought built came caught chose chosen dealt did
    done drawn drew driven drove fallen fed fell felt flown forgotten fought found froze frozen gave given gone got
    gotten grew grown had heard held hid hidden kept knew known laid learnt led left lent lost made meant met overlaid
    overran paid ran rang risen rose said sat saw seen sent shaken shook shown slept sold sought spent spoken stole
    stolen stood stuck sung sunk swept taken taught thought threw thrown told took torn understood unbound undone went
    withheld woke woken won wore worn wound written wrote
""")
# What may follow a verb in a name; anything else is a noun that the participle describes.
SMALL_WORDS = split_words("""
    again and as at away back before by down everywhere first for from in into last of off on once or out over to up
    with without x y
""")


@dataclass(frozen=True)
class Tally:
    """How often something occurs, among how many, and where.

    Attributes:
        part: Occurrences; characters, for the length of lines.
        whole: What it is a share of; 0 for a plain count.
        places: What to look at, as "line" or "line name".
    """

    part: int = 0
    whole: int = 0
    places: tuple[str, ...] = ()

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.part + other.part, self.whole + other.whole, self.places + other.places)


@dataclass(frozen=True)
class Measure:
    """One row of the table.

    Attributes:
        name: What is measured.
        aim: The value to stay below, or above where `more_is_better`; a share for percentages.
        unit: "share" is shown in percent, "mean" with one decimal, "count" as it is.
    """

    name: str
    aim: float
    unit: str
    more_is_better: bool = False

    def show(self, tally: Tally) -> str:
        """Return the value as text."""
        if self.unit == "count":
            return str(tally.part)

        value = tally.part / max(tally.whole, 1)
        return f"{value:.1%}" if self.unit == "share" else f"{value:.1f}"

    def show_aim(self) -> str:
        """Return the aim as text."""
        if self.unit == "count":
            return f"{self.aim:.0f}"

        sign = ">" if self.more_is_better else "<"
        return f"{sign} {self.aim:.0%}" if self.unit == "share" else f"{sign} {self.aim:.0f}"

    def excess(self, tally: Tally) -> float:
        """Return how many occurrences the tally is away from the aim; above 0 on the wrong side."""
        allowed = self.aim * tally.whole if self.unit != "count" else self.aim
        return allowed - tally.part if self.more_is_better else tally.part - allowed


MEASURES = {
    "characters": Measure("characters a code line", 38, "mean"),
    "long_lines": Measure(f"lines over {LONG_LINE} columns", 0.02, "share"),
    "double_bindings": Measure("`a, b = x, y` of all assignments", 0.02, "share"),
    "blank_lines": Measure(f"blank lines in bodies of functions of {LONG_BODY}+ lines", 0.06, "share", True),
    "comments": Measure("full-line comments", 0.03, "share", True),
    "nested_conditionals": Measure("nested conditional expressions", 0, "count"),
    "expression_statements": Measure("conditional or and/or expressions as statements", 0, "count"),
    "past_names": Measure("functions named in the past tense", 0, "count"),
    "long_functions": Measure(f"functions over {LONG_FUNCTION} lines", 0, "count"),
    "annotated": Measure("fully annotated functions", 0.95, "share", True),
}


@dataclass
class FileMeasures:
    """What one file, or all of them together, comes to: a tally for each key of MEASURES."""

    tallies: dict[str, Tally] = field(default_factory=lambda: dict.fromkeys(MEASURES, Tally()))
    lengths: list[int] = field(default_factory=list)

    def add(self, other: "FileMeasures") -> None:
        """Add the figures of another file to these."""
        for key, tally in other.tallies.items():
            self.tallies[key] += tally
        self.lengths += other.lengths


def measure_source(text: str) -> FileMeasures:
    """Measure the source text of one file.

    Raises:
        SyntaxError: The text is not Python.
    """
    lines = text.splitlines()
    nodes = list(ast.walk(ast.parse(text)))
    functions = [node for node in nodes if isinstance(node, Function)]
    tallies = {
        **tally_lines(text, lines),
        **tally_expressions(nodes),
        **tally_functions(functions),
        "blank_lines": tally_blank_lines(functions, lines),
    }
    return FileMeasures(tallies, [length_of(function) for function in functions])


def tally_lines(text: str, lines: list[str]) -> dict[str, Tally]:
    """Return the tallies that are about lines of text."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comment_lines = {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
    }
    code = [line.strip() for number, line in enumerate(lines, 1) if line.strip() and number not in comment_lines]
    long_lines = [number for number, line in enumerate(lines, 1) if len(line) > LONG_LINE]
    return {
        "characters": Tally(sum(map(len, code)), len(code)),
        "comments": Tally(len(comment_lines), len(lines)),
        "long_lines": tally_nodes(long_lines, len(lines)),
    }


def tally_expressions(nodes: list[ast.AST]) -> dict[str, Tally]:
    """Return the tallies that are about assignments and expressions."""
    assignments = [node for node in nodes if isinstance(node, ast.Assign)]
    double = [node.lineno for node in assignments if is_double_binding(node)]
    nested = [node.lineno for node in nodes if isinstance(node, ast.IfExp) and has_conditional_part(node)]
    statements = [
        node.lineno for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.IfExp | ast.BoolOp)
    ]
    return {
        "double_bindings": tally_nodes(double, len(assignments)),
        "nested_conditionals": tally_nodes(nested),
        "expression_statements": tally_nodes(statements),
    }


def tally_functions(functions: list[Function]) -> dict[str, Tally]:
    """Return the tallies that are about whole functions."""
    past = [function for function in functions if is_past(function.name) and not is_property(function)]
    long = [function for function in functions if length_of(function) > LONG_FUNCTION]
    bare = [function for function in functions if not is_annotated(function)]
    return {
        "past_names": Tally(len(past), 0, name_places(past)),
        "long_functions": Tally(len(long), 0, name_places(long)),
        "annotated": Tally(len(functions) - len(bare), len(functions), name_places(bare)),
    }


def tally_blank_lines(functions: list[Function], lines: list[str]) -> Tally:
    """Return how many lines in the bodies of long functions are blank; its places are bodies without any."""
    tally = Tally()
    for function in functions:
        body = skip_docstring(function.body)
        if length_of(function) < LONG_BODY or not body:
            continue

        texts = lines[body[0].lineno - 1 : function.end_lineno]
        blank = sum(not text.strip() for text in texts)
        tally += Tally(blank, len(texts), () if blank else name_places([function]))
    return tally


def tally_nodes(numbers: list[int], whole: int = 0) -> Tally:
    """Return a tally of the lines with these numbers."""
    return Tally(len(numbers), whole, tuple(map(str, sorted(numbers))))


def name_places(functions: Iterable[Function]) -> tuple[str, ...]:
    """Return each function as "line name"."""
    return tuple(f"{function.lineno} {function.name}" for function in functions)


def length_of(function: Function) -> int:
    """Return the lines of a function, without its decorators."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def skip_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return the statements after the docstring."""
    match body[0]:
        case ast.Expr(value=ast.Constant(value=str())):
            return body[1:]
        case _:
            return body


def is_double_binding(node: ast.Assign) -> bool:
    """Return True for `a, b = x, y`."""
    return isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple)


def has_conditional_part(node: ast.IfExp) -> bool:
    """Return True if a part of a conditional expression is itself one."""
    return any(isinstance(part, ast.IfExp) for part in (node.body, node.test, node.orelse))


def is_past(name: str) -> bool:
    """Return True if a name says what was done (`begun`, `taken_over`) and not what to do."""
    words = name.strip("_").lower().split("_")
    if len(words) > 1 and words[1] not in SMALL_WORDS:
        return False

    word = words[0]
    return word in IRREGULAR_PAST or (word.endswith("ed") and len(word) > 3 and word not in NOT_PAST)


def is_property(function: Function) -> bool:
    """Return True if a function is read as an attribute."""
    names = [ast.unparse(decorator).split(".")[-1] for decorator in function.decorator_list]
    return any(name in ("property", "cached_property", "setter") for name in names)


def is_annotated(function: Function) -> bool:
    """Return True if all parameters and the result have a type."""
    arguments = function.args
    optional = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    parameters = arguments.posonlyargs + arguments.args + arguments.kwonlyargs + optional
    return function.returns is not None and all(
        parameter.annotation or parameter.arg in ("self", "cls") for parameter in parameters
    )


def find_files(root: Path, folders: Iterable[str], excluded: Iterable[str]) -> Iterator[Path]:
    """Yield the Python files under `folders` of `root`, in order, without hidden folders and the excluded ones."""
    kept_out = [root / folder for folder in excluded]
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
            if not hidden and not any(path.is_relative_to(folder) for folder in kept_out):
                yield path


def format_table(total: FileMeasures) -> str:
    """Return the figures of all files together as a Markdown table."""
    rows = ["| measure | value | aim |", "|---|---|---|"]
    for key, measure in MEASURES.items():
        rows.append(f"| {measure.name} | {measure.show(total.tallies[key])} | {measure.show_aim()} |")

    ordered = sorted(total.lengths) or [0]
    percentile = ordered[int(0.9 * len(ordered))]
    rows.append(f"| functions | {len(total.lengths)} | |")
    rows.append(f"| lines a function, median / 90th percentile | {statistics.median(ordered):.0f} / {percentile} | |")
    return "\n".join(rows)


def format_worst_files(files: dict[str, FileMeasures], count: int) -> str:
    """Return for each measure the files that are farthest from its aim, with the places to look at."""
    parts = []
    for key, measure in MEASURES.items():
        excess = {name: measure.excess(measures.tallies[key]) for name, measures in files.items()}
        worst = sorted((name for name in files if excess[name] > 0), key=lambda name: -excess[name])
        parts.append(f"## {measure.name}: {len(worst)} of {len(files)} files miss {measure.show_aim()}\n")
        parts += ["| file | value | lines |", "|---|---|---|"]

        for name in worst[:count]:
            tally = files[name].tallies[key]
            parts.append(f"| {name} | {measure.show(tally)} | {', '.join(tally.places)} |")
        parts.append("")
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and the worst files where they are asked for."""
    parser = argparse.ArgumentParser(description="Measure the style of the code.")
    parser.add_argument("folders", nargs="*", default=[name for name in FOLDERS if (ROOT / name).is_dir()])
    parser.add_argument("--exclude", nargs="*", default=[], help="folders to leave out, such as benchmarks/harness")
    parser.add_argument("--per-file", action="store_true", help="list the worst files for each measure")
    parser.add_argument("--count", type=int, default=10, help="files to list for each measure")
    options = parser.parse_args(arguments)

    files = {}
    total = FileMeasures()
    for path in find_files(ROOT, options.folders, options.exclude):
        measures = measure_source(path.read_text())
        files[str(path.relative_to(ROOT))] = measures
        total.add(measures)

    if not files:
        sys.exit(f"No Python files in {', '.join(options.folders)}: name folders of {ROOT}.")

    print(format_table(total))
    if options.per_file:
        print("\n" + format_worst_files(files, options.count))


if __name__ == "__main__":
    main()
