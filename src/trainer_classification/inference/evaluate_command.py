"""Run `evaluate.py`: evaluate one or two models, print a table and write files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer_classification.checkpoint.load_model import Model, load_model
from trainer_classification.config import EvaluateConfig
from trainer_classification.environment import in_cloud
from trainer_classification.files import dump_json, write_atomically
from trainer_classification.inference.evaluate import EvaluationReport, compare_reports, evaluate
from trainer_classification.inference.run_dataset import RUN_OPTIONS
from trainer_classification.metrics.comparison import Comparison
from trainer_classification.names import portable_path
from trainer_classification.options import given_options
from trainer_classification.output_paths import OutputFile, check_output_files
from trainer_classification.outputs.class_tables import class_rows, write_class_table
from trainer_classification.plan import describe_view

_LISTED_CLASSES = 20


def run_evaluation(config: EvaluateConfig) -> None:
    """Evaluate the models that the options name.

    Raises:
        ValueError: see `evaluate`; also if no model is given.
    """
    if not config.model:
        raise ValueError("--model is needed: the folder of a run, or its model.pth.")
    check_output_files(
        [
            OutputFile("--json-file", config.json_file, ".json"),
            OutputFile("--csv-file", config.csv_file, ".csv"),
        ],
        inputs=(config.model, config.compare, config.dataset),
        folder=config.dataset,
    )

    model = load_model(config.model)
    report = _evaluate(config, model)
    print("\n".join(_table(report)))
    content = report.to_json()
    if config.compare:
        other = _evaluate(config, load_model(config.compare), like=model)
        comparison = compare_reports(report, other)
        text = comparison.describe("--model", "--compare")
        print(f"\n--compare {other.model}: accuracy {_percent(other.accuracy)}. {text}")
        for note in (note for note in other.notes if note not in report.notes):
            print(f"Note on --compare: {note}")
        content["comparison"] = _comparison_json(comparison, other, text)

    if config.json_file:
        write_atomically(Path(config.json_file), dump_json(content, indent=1) + "\n")
    if config.csv_file:
        write_class_table(
            Path(config.csv_file), report.confusion, report.class_names[: len(report.confusion)]
        )


def _evaluate(config: EvaluateConfig, model: Model, like: Model | None = None) -> EvaluationReport:
    return evaluate(
        model,
        config.dataset,
        config.split,
        task=config.task,
        prepared=config.prepared,
        eval_crop=config.eval_crop,
        batch_size=config.batch_size,
        device=config.device,
        amp=config.amp,
        threads=config.workers,
        data_options=_chosen_options(config),
        like=like,
    )


def _chosen_options(config: EvaluateConfig) -> dict[str, Any]:
    """Return the options of the dataset that were given; in the cloud, whose form gives all, those that it changed."""
    names = {*RUN_OPTIONS, "allow_outside"} & given_options(config)
    values = {name: getattr(config, name) for name in names}
    if not in_cloud():
        return values
    return {name: value for name, value in values.items() if value != getattr(EvaluateConfig, name)}


def _comparison_json(
    comparison: Comparison, other: EvaluationReport, text: str
) -> dict[str, object]:
    return {
        "model": portable_path(other.model),
        "model_id": other.model_id,
        "accuracy": other.accuracy,
        "only_model_right": comparison.only_first,
        "only_compared_right": comparison.only_second,
        "p_value": comparison.p_value,
        "method": comparison.method,
        "significant": comparison.significant,
        "text": text,
        "notes": list(other.notes),
    }


def _table(report: EvaluationReport) -> Iterator[str]:
    """Yield the lines of the table that people read."""
    averages = report.averages
    low, high = report.accuracy_interval
    yield f"{report.dataset} {report.split}: {len(report.correct):,} images, {len(report.confusion)} classes"
    yield f"{report.model}: {report.network}, sees {describe_view(report.eval_crop)}"
    yield ""
    yield f"accuracy           {_percent(report.accuracy):>8}   95 % interval {_percent(low)} to {_percent(high)}"
    yield f"top-5              {_percent(report.top5_accuracy):>8}"
    yield f"mean of classes    {_percent(report.balanced_accuracy):>8}   of those with images"
    yield f"loss               {report.loss:8.4f}"
    yield _calibration_line(report)
    yield ""
    yield "           precision   recall       F1"
    for kind in ("macro", "weighted"):
        values = "".join(
            f"{_percent(averages[f'{name}_{kind}']):>10}" for name in ("precision", "recall", "f1")
        )
        yield f"{kind:10}{values}"
    yield ""
    yield from _class_lines(report)
    for note in report.notes:
        yield f"Note: {note}"


def _calibration_line(report: EvaluationReport) -> str:
    line = f"calibration error  {_percent(report.calibration_error):>8}"
    if report.calibration_error_after is None:
        return f"{line}   the model stores no temperature"
    return f"{line}   {_percent(report.calibration_error_after)} with its temperature of {report.temperature:.3f}"


def _class_lines(report: EvaluationReport) -> Iterator[str]:
    """Yield the classes with images, the worst first."""
    rows = [
        row
        for row in class_rows(report.confusion, report.class_names[: len(report.confusion)])
        if row["support"]
    ]
    rows.sort(key=lambda row: (row["f1"], row["class"]))
    shown = rows[:_LISTED_CLASSES]
    width = max(12, *(len(str(row["class"])) for row in shown))
    yield f"{'class':{width}}  images  precision   recall  95 % interval           F1"
    for row in shown:
        precision, recall, f1, low, high = (
            _percent(float(row[name]))
            for name in ("precision", "recall", "f1", "recall_low", "recall_high")
        )
        yield (
            f"{row['class']:{width}}  {row['support']:6}  {precision:>9}  {recall:>7}  {f'{low} to {high}':17}  {f1:>7}"
        )
    if len(rows) > len(shown):
        yield f"... and {len(rows) - len(shown)} better ones: --csv-file FILE writes all."


def _percent(share: float) -> str:
    return f"{share:.2%}"
