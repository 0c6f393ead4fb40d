#!/usr/bin/env bash
# The Hafnia SDK's benchmark scores the first prediction of an image, not the surest.
#
# Version   hafnia 0.8.6.
# Guess     A model may return several classes for an image, each with a confidence: run_benchmark takes the one
#           of the highest confidence, so the order of the list does not matter.
# Behavior  ClassificationMetrics reads the first primitive of the list and ignores `confidence`.
# Output    most confident first: accuracy 1.0
#           least confident first: accuracy 0.0
# Hurts     A model that returns its top five in class order, or sorted upward, scores near zero without a warning.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check hafnia==0.8.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from pathlib import Path

from hafnia.dataset.benchmark.benchmark import run_benchmark
from hafnia.dataset.benchmark.inference_model import InferenceModel, ModelInfo
from hafnia.dataset.hafnia_dataset import HafniaDataset
from hafnia.dataset.hafnia_dataset_types import DatasetInfo, Sample, TaskInfo
from hafnia.dataset.primitives import Classification
from PIL import Image

NAMES = ["cat", "dog"]
TASK = TaskInfo.from_class_names(primitive=Classification, class_names=NAMES)


class PerfectModel(InferenceModel):
    """Give the right class 0.9 and the wrong one 0.1; the red channel holds the label."""

    def __init__(self, surest_first: bool) -> None:
        self.surest_first = surest_first

    def predict(self, image, sample_dict=None):
        label = int(image[0, 0, 0])
        predictions = []
        for index, confidence in ((label, 0.9), (1 - label, 0.1)):
            predictions.append(
                Classification(
                    class_name=NAMES[index],
                    class_idx=index,
                    confidence=confidence,
                    ground_truth=False,
                    task_name=TASK.name,
                )
            )
        return predictions if self.surest_first else predictions[::-1]

    def get_model_info(self):
        return ModelInfo(name="perfect", version="1.0.0", description="", tasks=[TASK])


samples = []
Path("images").mkdir()
for number in range(10):
    label = number % 2
    path = Path("images") / f"{number}.png"
    Image.new("RGB", (8, 8), (label, number, 0)).save(path)
    answer = Classification(class_name=NAMES[label], class_idx=label)
    samples.append(Sample(file_path=str(path), height=8, width=8, split="test", classifications=[answer]))

info = DatasetInfo(dataset_name="pets", version="1.0.0", tasks=[TASK])
dataset = HafniaDataset.from_samples_list(samples, info=info)

accuracies = []
for surest_first in (True, False):
    metrics, *_ = run_benchmark(dataset, PerfectModel(surest_first))
    accuracies.append(metrics["image_classification/accuracy"])

print("most confident first: accuracy", accuracies[0])
print("least confident first: accuracy", accuracies[1])
assert accuracies == [1.0, 0.0], "the behavior has changed"
PY
