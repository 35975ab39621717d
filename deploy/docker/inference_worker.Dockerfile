# inference_worker: the streaming engine with the built-in model. From the repository's root:
#   docker build -f deploy/docker/inference_worker.Dockerfile -t sightline/inference_worker .
# for an NVIDIA GPU, with torch's CUDA build and the libraries that come with it (about 5 GB):
#   docker build --build-arg TORCH=cuda --build-arg TORCH_INDEX= … -t sightline/inference_worker:cuda .
ARG BASE=python:3.11-slim-bookworm

# The stages `tools` and `stubs` are the same in every Dockerfile here, so they are built once.
FROM ${BASE} AS tools
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_INDEX_URL=${PIP_INDEX_URL} PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL} \
    PIP_FIND_LINKS=/wheels PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY deploy/docker/wheels /wheels
RUN if [ -f /wheels/ca.pem ]; then pip3 config --global set global.cert /wheels/ca.pem; fi

FROM tools AS stubs
COPY deploy/docker/locks/tools.lock ./
RUN python3 -m venv --without-pip /opt/tools \
 && pip3 --python /opt/tools/bin/python install --require-hashes -r tools.lock
COPY protos protos
RUN /opt/tools/bin/python -m grpc_tools.protoc -I protos --python_out=. --grpc_python_out=. \
    protos/sightline/v1/*.proto \
 && touch sightline/v1/__init__.py

# Kernels for every level of the family of processors that the image runs on.
FROM ${BASE} AS kernels
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /src
COPY services/__init__.py services/
COPY services/inference_worker/__init__.py services/inference_worker/
COPY services/inference_worker/device services/inference_worker/device
RUN python3 -m services.inference_worker.device.build /kernels

# TORCH names the lock, cpu or cuda. TORCH_INDEX is asked for packages besides pip's own index: this
# one holds torch's CPU builds. That of pip's own index is on Linux the CUDA build.
FROM tools AS packages
ARG TORCH=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY deploy/docker/locks/inference_worker.*.lock ./
RUN python3 -m venv --without-pip /opt/venv \
 && pip3 --python /opt/venv/bin/python install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    --require-hashes -r inference_worker.$TORCH.lock
# The list of what the image brings (CycloneDX), beside it in /usr/share/sightline.
COPY --from=stubs /opt/tools /opt/tools
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --of JSON -o sbom.cdx.json \
    /opt/venv/bin/python

FROM ${BASE}
# On a GPU Triton compiles what launches its kernels; a CPU's are there already.
ARG TORCH=cpu
RUN if [ "$TORCH" = cuda ]; then apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*; fi
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin sightline \
 && install -d -o 10001 /cache && install -d /models
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/cache/huggingface HF_HUB_DISABLE_TELEMETRY=1 TRITON_CACHE_DIR=/cache/triton \
    WORKER_HOST=0.0.0.0 WORKER_GRPC_PORT=50060 WORKER_HTTP_PORT=8080 WORKER_METRICS_PORT=9090
COPY --from=packages /opt/venv /opt/venv
COPY --from=stubs /src/sightline/v1 sightline/v1
COPY --from=packages /src/sbom.cdx.json /usr/share/sightline/sbom.cdx.json
COPY sightline sightline
COPY services/__init__.py services/
COPY services/common services/common
COPY services/inference_worker services/inference_worker
COPY --from=kernels /kernels services/inference_worker/device/built
USER 10001
EXPOSE 50060 8080 9090
# A model of 16 GB may have to be downloaded before a worker is healthy.
HEALTHCHECK --interval=5s --timeout=5s --start-period=3600s --retries=3 CMD ["python", "-IS", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['WORKER_HTTP_PORT'] + '/healthz', timeout=4)"]
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="sightline/inference_worker" \
      org.opencontainers.image.description="The streaming engine and its built-in model" \
      org.opencontainers.image.vendor="Sightline" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
CMD ["python", "-m", "services.inference_worker"]
