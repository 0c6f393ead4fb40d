"""Print predictions: a table for people, JSON or CSV for programs; a line for each image."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Literal, TextIO

from trainer_classification.inference.predictor import Prediction

Format = Literal["table", "json", "csv"]


class PredictionWriter:
    """Writes lines, each whole and at once: a program that is killed leaves no half of one.

    Args:
        stream: text stream with a binary buffer, such as `sys.stdout`.
        style: of the lines.
        class_names: all that may come, for the width of the table's column.
        top_k: classes named for each image.
    """

    def __init__(
        self, stream: TextIO, style: Format, class_names: Sequence[str], top_k: int
    ) -> None:
        self._stream = stream
        self._top_k = min(top_k, len(class_names))
        self._width = max(len("class"), *map(len, class_names))
        lines: dict[Format, Callable[[Prediction], str]] = {
            "table": self._table_line,
            "json": _json_line,
            "csv": self._csv_line,
        }
        self._line = lines[style]
        if style == "table":
            self._write(f"confidence  {'class':{self._width}}  image")
        elif style == "csv":
            self._write(_csv_text(self._csv_header()))

    def write(self, prediction: Prediction) -> None:
        """Write the line of an image."""
        self._write(self._line(prediction))

    def _write(self, line: str) -> None:
        # A file's name may hold any bytes; one write a line, which the system
        # does as a whole.
        self._stream.buffer.write((line + "\n").encode("utf-8", "surrogateescape"))
        self._stream.flush()

    def _table_line(self, prediction: Prediction) -> str:
        path = _printable(prediction.source)
        if prediction.error:
            return f"{'-':>10}  {'-':{self._width}}  {path}: {prediction.error}"
        others = zip(prediction.classes[1:], prediction.confidences[1:], strict=True)
        rest = ", ".join(f"{name} {confidence:.1%}" for name, confidence in others)
        line = f"{prediction.confidence:10.1%}  {prediction.class_name:{self._width}}  {path}"
        return f"{line} ({rest})" if rest else line

    def _csv_header(self) -> list[str]:
        names = ["path", "class", "confidence", "error"]
        for place in range(2, self._top_k + 1):
            names += [f"class_{place}", f"confidence_{place}"]
        return names

    def _csv_line(self, prediction: Prediction) -> str:
        if prediction.error:
            blanks = [""] * (2 * self._top_k - 2)
            return _csv_text([prediction.source, "", "", prediction.error, *blanks])
        cells = [
            prediction.source,
            prediction.class_name,
            round_confidence(prediction.confidence),
            "",
        ]
        for name, confidence in zip(
            prediction.classes[1:], prediction.confidences[1:], strict=True
        ):
            cells += [name, round_confidence(confidence)]
        return _csv_text(cells)


def _json_line(prediction: Prediction) -> str:
    if prediction.error:
        return json.dumps({"path": prediction.source, "error": prediction.error})
    scores = zip(prediction.classes, prediction.confidences, strict=True)
    top = [
        {"class": name, "confidence": round_confidence(confidence)} for name, confidence in scores
    ]
    return json.dumps({"path": prediction.source} | top[0] | {"top": top})


def _csv_text(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def round_confidence(confidence: float) -> float:
    """Return a probability with the digits that are shown of it."""
    return round(confidence, 6)


def _printable(text: str) -> str:
    """Return a name that cannot move a terminal's cursor."""
    return "".join(
        letter if letter.isprintable() or "\udc80" <= letter <= "\udcff" else "?" for letter in text
    )
