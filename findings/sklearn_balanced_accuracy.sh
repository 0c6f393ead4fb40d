#!/usr/bin/env bash
# scikit-learn's balanced accuracy is not its macro recall when a class is predicted that the labels lack.
#
# Version   scikit-learn 1.9.1.
# Guess     balanced_accuracy_score is defined as the mean of the classes' recalls: recall_score(average="macro").
# Behavior  balanced_accuracy_score leaves out classes without labels; recall_score counts each class that is
#           predicted or labeled, those without labels as 0. Issue 26892, open since 2023.
# Output    labels [0, 0, 1, 1], predictions [0, 0, 1, 2]: balanced accuracy 0.75, macro recall 0.50
# Hurts     A small test set lacks some classes (Hafnia's samples: 13 to 25 test images of up to 257 classes).
#           The same predictions then have two "mean class accuracies", and a network of more outputs than the test
#           set has classes is punished by one of them.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from sklearn.metrics import balanced_accuracy_score, recall_score

labels = [0, 0, 1, 1]
balanced = float(balanced_accuracy_score(labels, [0, 0, 1, 2]))
macro = float(recall_score(labels, [0, 0, 1, 2], average="macro"))
print(f"a class predicted that has no labels: balanced accuracy {balanced:.2f}, macro recall {macro:.2f}")

same = [0, 0, 1, 0]
assert balanced_accuracy_score(labels, same) == recall_score(labels, same, average="macro") == 0.75
assert (balanced, macro) == (0.75, 0.5), "the behavior has changed"
PY
