#!/usr/bin/env bash
# The Hafnia SDK renames the prediction objects that a model returns, so an object returned twice loses its task.
#
# Version   hafnia 0.8.6.
# Guess     run_benchmark reads the predictions. A model may build one Classification for each class beforehand and
#           return the same objects again and again.
# Behavior  The runner appends "/predictions" to `task_name` of the model's own object, each time it is returned.
#           From its second use on an object belongs to "image_classification/predictions/predictions", and so does
#           the one returned first, as the rows are built at the end.
# Output    new objects: accuracy 1.0, missing 0
#           reused objects: accuracy 0.0, missing 10, task image_classification + 5 x /predictions
# Hurts     The natural speed-up of a model server scores zero; only `n_pred_missing` gives a hint.
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


def make_predictions():
    """Return one prediction for each class."""
    return [
        Classification(class_name=name, class_idx=index, confidence=1.0, ground_truth=False, task_name=TASK.name)
        for index, name in enumerate(NAMES)
    ]


class PerfectModel(InferenceModel):
    """Return the label that the red channel holds, from objects made once or made for each image."""

    def __init__(self, reuse: bool) -> None:
        self.reuse = reuse
        self.predictions = make_predictions()

    def predict(self, image, sample_dict=None):
        predictions = self.predictions if self.reuse else make_predictions()
        return [predictions[int(image[0, 0, 0])]]

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

results = []
for reuse in (False, True):
    model = PerfectModel(reuse)
    metrics, *_ = run_benchmark(dataset, model)
    accuracy = metrics["image_classification/accuracy"]
    missing = metrics["image_classification/n_pred_missing"]
    results.append((accuracy, missing))
    print("reused" if reuse else "new", f"objects: accuracy {accuracy}, missing {missing}")

print("task of the reused object:", model.predictions[0].task_name)
assert results == [(1.0, 0), (0.0, 10)], "the behavior has changed"
assert model.predictions[0].task_name == TASK.name + 5 * "/predictions", "the behavior has changed"
PY
