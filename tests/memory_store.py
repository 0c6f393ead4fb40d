"""A prepared dataset as objects in memory, and workers that see no folder of this machine, for tests."""

from trainer_classification.config import PrepareConfig
from trainer_classification.data import mirror
from trainer_classification.preparation import job, workers
from trainer_classification.preparation.remote_assembly import ShardJob
from trainer_classification.preparation.remote_target import RemoteJob
from trainer_classification.preparation.remote_workers import RemoteWorkers

URL = "memory://bucket/prepared"


def config(dataset, prepared, **options):
    return PrepareConfig(dataset=str(dataset), prepared=str(prepared), workers=1, **options)


def objects(system):
    """Content of all objects of the one dataset, but for the checksums that a local folder has not."""
    found = {}
    for name, file in system.store.items():
        dataset, _, path = name.removeprefix("/bucket/prepared/").partition("/")
        assert dataset.startswith("tiny-"), name
        assert not dataset.endswith(".partial"), name
        found[path] = file.getvalue()
    found.pop(mirror.CHECKSUMS)
    return found


def path_of(system, name):
    (path,) = [path for path in system.store if path.endswith(name)]
    return path


class Cluster(RemoteWorkers):
    """Workers that are run here, every other piece of work twice, until all are lost.

    Attributes:
        done: the pieces of work that were done: names of jobs, and paths of shards.
    """

    def __init__(self, monkeypatch, pieces=1000):
        self.left = pieces
        self.done = []
        monkeypatch.setattr(job, "IMAGES_PER_JOB", 20)
        monkeypatch.setattr(workers, "connect", lambda executor, address: self)

    def map(self, function, pieces):
        for number, piece in enumerate(pieces):
            if not self.left:
                raise ConnectionError("the scheduler is gone")
            self.left -= 1
            for _ in range(1 + number % 2):
                result = function(piece)
            if isinstance(piece, RemoteJob):
                self.done.append(piece.job.stem.name)
            elif isinstance(piece, ShardJob):
                self.done.append(piece.shard.path)
            yield result

    def close(self):
        pass
