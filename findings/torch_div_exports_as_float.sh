#!/usr/bin/env bash
# torch.div of integers with a rounding mode becomes a division of float32 in an exported ONNX file.
#
# Versions  torch 2.10.0, onnxscript 0.7.2, onnx 1.23.2, onnxruntime 1.32.0.
# Guess     A quotient of int64 numbers that is rounded down, or towards zero, is computed of integers in the file, too, as
#           torch does: by the operator Div, which rounds integers towards zero.
# Behavior  The file converts both to float32, divides and rounds. Above 2 ** 24 the result is another number, without a
#           warning. `//` of the same tensors is exported as a division of integers.
# Output    torch 8388609; file: floor 8388610, trunc 8388610, // 8388609
# Hurts     Whoever computes indexes, or shares of large sizes, in an exported graph. Write `//`.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.10.0 onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0
cat > "$folder/show.py" <<'PYTHON'
import sys

import onnxruntime
import torch


class Quotient(torch.nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.mode = mode

    def forward(self, number):
        return number // 2 if self.mode == "//" else torch.div(number, 2, rounding_mode=self.mode)


number = torch.tensor([16777219])
found = {}
for mode in ("floor", "trunc", "//"):
    network = Quotient(mode)
    assert network(number).item() == 8388609
    path = f"{sys.argv[1]}/quotient.onnx"
    torch.onnx.export(network, (number,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found[mode] = session.run(None, {session.get_inputs()[0].name: number.numpy()})[0].item()
print("torch 8388609; file:", ", ".join(f"{mode} {value}" for mode, value in found.items()))
raise SystemExit(found != {"floor": 8388610, "trunc": 8388610, "//": 8388609})
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> /dev/null | tail -1
