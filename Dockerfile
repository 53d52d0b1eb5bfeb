# The whole pipeline, as a user without privileges; the quickstart by default:
#   docker build -t distill .
#   docker run --rm -v "$PWD/outputs:/app/outputs" distill
# Another run is another command:
#   docker run --rm -v "$PWD/outputs:/app/outputs" distill distill train --config recipes/debug.yaml
# Pinned by version; for a digest too, add @sha256:... of the image that your registry gives.
FROM python:3.11.13-slim-bookworm

# The default package index has torch's CUDA build for Linux, several gigabytes that a CPU has no use for. An index with
# CPU builds, such as PyTorch's own, is named by
#   docker build --build-arg TORCH_INDEX=URL -t distill .
# For GPUs leave it out, and run with --gpus all. What is slow without it there, a GPU's own kernels, a C compiler builds:
#   docker build --build-arg PACKAGES="gcc libc6-dev" -t distill .
# Another user (--user) has no home there, where kernels and models are kept: add -e HOME=/tmp.
ARG TORCH_INDEX=
ARG PACKAGES=

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

WORKDIR /app
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY distill distill
COPY recipes recipes

RUN if [ -n "$PACKAGES" ]; then \
        apt-get update && apt-get install -y --no-install-recommends $PACKAGES && rm -rf /var/lib/apt/lists/*; \
    fi

# With an index of its own, torch goes in first and alone, so that everything else comes from the default index.
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"; \
    fi \
    && pip install -c constraints.txt -e .

# The user's id is that of the first user of most Linux machines, so that a mounted outputs/ can be written.
RUN useradd --create-home --uid 1000 distill && install -d -o distill -g distill outputs
USER 1000
VOLUME /app/outputs

CMD ["accelerate", "launch", "distill/train.py", "--config", "recipes/quickstart.yaml"]
