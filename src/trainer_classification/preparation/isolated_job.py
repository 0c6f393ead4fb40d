"""Run a job of prepare in a process of its own, which an image may end: it is read from standard input, pickled."""

import pickle
import sys

from trainer_classification.preparation.job import run_job

if __name__ == "__main__":
    run_job(pickle.load(sys.stdin.buffer))
