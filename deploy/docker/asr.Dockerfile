# asr: speech to text. From the repository's root:
#   docker build -f deploy/docker/asr.Dockerfile -t sightline/asr .
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

FROM tools AS packages
COPY deploy/docker/locks/asr.lock ./
RUN python3 -m venv --without-pip /opt/venv \
 && pip3 --python /opt/venv/bin/python install --require-hashes -r asr.lock
# The list of what the image brings (CycloneDX), beside it in /usr/share/sightline.
COPY --from=stubs /opt/tools /opt/tools
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --of JSON -o sbom.cdx.json \
    /opt/venv/bin/python

FROM ${BASE}
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin sightline \
 && install -d -o 10001 /cache && install -d /models
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/cache/huggingface HF_HUB_DISABLE_TELEMETRY=1 \
    ASR_HOST=0.0.0.0 ASR_GRPC_PORT=50055 ASR_HTTP_PORT=8080 ASR_METRICS_PORT=9090
COPY --from=packages /opt/venv /opt/venv
COPY --from=stubs /src/sightline/v1 sightline/v1
COPY --from=packages /src/sbom.cdx.json /usr/share/sightline/sbom.cdx.json
COPY sightline sightline
COPY services/__init__.py services/
COPY services/common services/common
COPY services/asr services/asr
USER 10001
EXPOSE 50055 8080 9090
# Its model may have to be downloaded before it is healthy.
HEALTHCHECK --interval=5s --timeout=5s --start-period=1800s --retries=3 CMD ["python", "-IS", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['ASR_HTTP_PORT'] + '/healthz', timeout=4)"]
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="sightline/asr" \
      org.opencontainers.image.description="Speech to text" \
      org.opencontainers.image.vendor="Sightline" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
CMD ["python", "-m", "services.asr"]
