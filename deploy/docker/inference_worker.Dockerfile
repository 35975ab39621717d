# inference_worker: the streaming engine with the built-in model. From the repository's root:
#   docker build -f deploy/docker/inference_worker.Dockerfile -t sightline/inference_worker .
# for an NVIDIA GPU, with torch's CUDA build and the libraries that come with it (about 5 GB):
#   docker build --build-arg TORCH_INDEX= … -t sightline/inference_worker:cuda .
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
COPY deploy/requirements-dev.txt ./
RUN python3 -m venv --without-pip /opt/tools \
 && grep '^grpcio-tools==' requirements-dev.txt > tools.txt \
 && pip3 --python /opt/tools/bin/python install -r tools.txt
COPY protos protos
RUN /opt/tools/bin/python -m grpc_tools.protoc -I protos --python_out=. --grpc_python_out=. \
    protos/sightline/v1/*.proto \
 && touch sightline/v1/__init__.py

# TORCH_INDEX is asked for packages besides pip's own index. This one holds torch's CPU builds;
# empty, the torch of pip's own index is taken, which on Linux x86-64 is the CUDA build.
FROM tools AS packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY services/common/requirements.txt common.txt
COPY services/inference_worker/requirements.txt service.txt
RUN python3 -m venv --without-pip /opt/venv \
 && pip3 --python /opt/venv/bin/python install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    -r common.txt -r service.txt

FROM ${BASE}
# When the worker starts, kernels are compiled for its CPU or GPU.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin sightline
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    TRITON_CACHE_DIR=/tmp/triton WORKER_HOST=0.0.0.0 WORKER_GRPC_PORT=50060 WORKER_HTTP_PORT=8080
COPY --from=packages /opt/venv /opt/venv
COPY --from=stubs /src/sightline/v1 sightline/v1
COPY sightline sightline
COPY services/__init__.py services/
COPY services/common services/common
COPY services/inference_worker services/inference_worker
USER 10001
EXPOSE 50060 8080
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-IS", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['WORKER_HTTP_PORT'] + '/healthz', timeout=4)"]
CMD ["python", "-m", "services.inference_worker"]
