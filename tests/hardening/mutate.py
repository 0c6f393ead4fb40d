"""Change one operator or constant at a time and count which changes the unit tests notice.

python tests/hardening/mutate.py src/trainer_classification/files.py 15 tests/unit/test_files.py [more tests]

HARDENING_SEED chooses the changes. The module is put back at the end.
"""

import ast
import copy
import os
import random
import subprocess
import sys
from pathlib import Path

SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn,
    ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
}  # fmt: skip


def places(tree: ast.AST) -> list[tuple[ast.AST, str, int]]:
    """List what can be changed: (node, attribute, index in it or -1)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
            found.append((node, "op", -1))
        elif isinstance(node, ast.Compare):
            found += [(node, "ops", number) for number, op in enumerate(node.ops) if type(op) in SWAPS]
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            found.append((node, "value", -1))
    return found


def mutate(source: str, number: int) -> tuple[str, str]:
    """Return the source with the change of a number, and the changed line."""
    tree = ast.parse(source)
    node, name, index = places(tree)[number]
    before = copy.deepcopy(node)
    if name == "ops":
        node.ops[index] = SWAPS[type(node.ops[index])]()
    elif name == "op":
        node.op = SWAPS[type(node.op)]()
    else:
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    return ast.unparse(tree), f"line {node.lineno}: {ast.unparse(before)} -> {ast.unparse(node)}"


def main() -> int:
    module, count, *tests = sys.argv[1:]
    path = Path(module)
    source = path.read_text()
    chance = random.Random(int(os.environ.get("HARDENING_SEED", "34")))
    numbers = range(len(places(ast.parse(source))))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    killed = 0
    chosen = sorted(chance.sample(numbers, min(int(count), len(numbers))))
    try:
        for number in chosen:
            changed, line = mutate(source, number)
            path.write_text(changed)
            try:
                survived = subprocess.run(command, capture_output=True, timeout=300).returncode == 0
            except subprocess.TimeoutExpired:
                survived = False
            killed += not survived
            print("survived" if survived else "killed  ", line, flush=True)
    finally:
        path.write_text(source)
    print(f"{path.name}: {killed} of {len(chosen)} killed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
