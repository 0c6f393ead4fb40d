"""Compiled code that an earlier process left does the same as code that is compiled now."""

import os
import subprocess
import sys

import pytest

CODE = """
import hashlib, sys
import numpy as np
from trainer_classification.augment import cpu
from trainer_classification.kernels import draws
from trainer_classification.plan import Plan, Policy

images = np.random.default_rng(0).integers(0, 256, (9, 20, 20, 3), dtype=np.uint8)
batches = []
for policy in (
    Policy(crop="shift", shift=2, flip="random", rand_augment=4, color_jitter=0.3, erasing=0.3, cutout=3),
    Policy(crop="resized", flip="random"),
):
    plan = Plan(9, 0, policy, np.full((9, 2), 20))
    index = plan.order(0)
    batches.append(cpu.augment(images, index, plan.draws(0)[index], policy, 16 if policy.crop == "resized" else 20))
order = np.arange(9)
draws.permute(np.array([1, 2], np.uint64), order)
print(hashlib.sha256(b"".join(part.tobytes() for part in (*batches, order))).hexdigest())
print("numba.cpython.printimpl" in sys.modules)  # for compiling alone
"""


@pytest.mark.slow
def test_kept_code_does_the_same_and_needs_no_compiler(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", CODE]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300) for _ in range(2)
    )
    assert second.returncode == 0, second.stderr[-2000:]
    compiled, kept = first.stdout.split(), second.stdout.split()
    assert compiled[1] == "True"
    assert kept == [compiled[0], "False"]
