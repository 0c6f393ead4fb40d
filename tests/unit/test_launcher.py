"""A process of several ends with the one that has started it, even while it waits in C."""

import os
import subprocess
import sys

CODE = """
import os, subprocess, sys
os.environ["TRAINER_LAUNCHER"] = str(os.getpid())
rank = '''
import socket
from trainer_classification.training import launcher
launcher._CHECK_SECONDS = launcher._SAVE_SECONDS = 0.05
launcher.end_with_launcher()
print("waits", flush=True)
here, there = socket.socketpair()
here.recv(1)
'''
process = subprocess.Popen([sys.executable, "-c", rank], stdout=subprocess.PIPE, stderr=None, text=True)
assert process.stdout.readline() == "waits\\n"
os._exit(0)
"""


def test_a_process_that_waits_for_a_launcher_that_was_killed_ends():
    """Its stderr stays open until it has."""
    done = subprocess.run([sys.executable, "-c", CODE], stderr=subprocess.PIPE, env=os.environ, timeout=60)
    assert done.returncode == 0, done.stderr
