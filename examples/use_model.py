"""Classify photos: python examples/use_model.py .data/experiments/RUN photo.jpg another.jpg."""

import sys

from trainer_classification import load_model, predict

run, *photos = sys.argv[1:]
model = load_model(run)
print(
    f"A {model.name} for {len(model.class_names)} classes, trained on {model.dataset} at {model.image_size} px."
)

# Images are decoded in parallel and classified in batches; arrays and PIL images
# are taken as paths are.
for prediction in predict(model, photos, top_k=3):
    print(f"\n{prediction.source} {prediction.error}")
    for name, confidence in zip(prediction.classes, prediction.confidences, strict=True):
        print(f"  {confidence:6.1%}  {name}")
