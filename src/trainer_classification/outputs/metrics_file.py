"""Write the metrics of a HafniaLogger to its file together, not one by one.

For each metric the SDK reads `experiment.parquet` whole and writes it anew. Over a
thousand short epochs that took a third of the time, and memory grew.
"""

from __future__ import annotations

from typing import Any

from trainer_classification.files import write_atomically


class MetricsFile:
    """Keeps what a logger would write to its file, and writes it when asked.

    Lines on stdout, which the platform reads as they come, are printed at once.

    Args:
        logger: a HafniaLogger, which gives what it logs to this from now on.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._rows: list[dict[str, Any]] = []
        self._written: Any = None  # a table of all rows in the file
        logger.write_entity = self._take

    def _take(self, entity: Any) -> None:
        print(entity)
        self._rows.append(entity.model_dump())

    def write(self) -> None:
        """Write what was logged since the last call.

        Raises:
            OSError: the disk is full, say. The old file is unchanged, and the next
                call writes these rows, too.
        """
        if not self._rows:
            return
        import pyarrow  # as slow to import as the SDK's logger, which needs it
        from pyarrow import parquet

        path = self._logger.log_file
        if self._written is None and path.exists():  # of a run that was continued here
            self._written = parquet.ParquetFile(path).read()
        table = pyarrow.Table.from_pylist(self._rows, schema=self._logger.schema)
        if self._written is not None:
            table = pyarrow.concat_tables([self._written, table]).combine_chunks()
        write_atomically(path, lambda file: parquet.write_table(table, file))

        self._written = table
        self._rows = []
        # Its allocator would keep what larger and larger tables leave: 16 MB after a
        # thousand epochs, not 5.
        pyarrow.default_memory_pool().release_unused()
