# gateway: live media in, sessions, routing, the page. From the repository's root:
#   docker build -f deploy/docker/gateway.Dockerfile -t sightline/gateway .
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
COPY deploy/docker/locks/gateway.lock ./
RUN python3 -m venv --without-pip /opt/venv \
 && pip3 --python /opt/venv/bin/python install --require-hashes -r gateway.lock
# The list of what the image brings (CycloneDX), beside it in /usr/share/sightline.
COPY --from=stubs /opt/tools /opt/tools
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --of JSON -o sbom.cdx.json \
    /opt/venv/bin/python

FROM ${BASE}
# With --build-arg SRT=1: what GATEWAY_SRT_PORT and sources at srt:// need.
ARG SRT=
RUN if [ -n "$SRT" ]; then apt-get update \
 && apt-get install --yes --no-install-recommends libsrt1.5-gnutls \
 && rm -rf /var/lib/apt/lists/*; fi
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin sightline
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_HOST=0.0.0.0 GATEWAY_GRPC_PORT=50051 GATEWAY_HTTP_PORT=8080 GATEWAY_METRICS_PORT=9090 GATEWAY_RTMP_PORT=1935 \
    GATEWAY_WEBRTC_PORT=8189
COPY --from=packages /opt/venv /opt/venv
COPY --from=stubs /src/sightline/v1 sightline/v1
COPY --from=packages /src/sbom.cdx.json /usr/share/sightline/sbom.cdx.json
COPY sightline sightline
COPY services/__init__.py services/
COPY services/common services/common
COPY services/gateway services/gateway
COPY clients/js/src clients/js/src
USER 10001
EXPOSE 50051 8080 1935 8189/udp 8189/tcp 9090
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-IS", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['GATEWAY_METRICS_PORT'] + '/healthz', timeout=4)"]
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="sightline/gateway" \
      org.opencontainers.image.description="Live media in, sessions, routing, the page" \
      org.opencontainers.image.vendor="Sightline" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
CMD ["python", "-m", "services.gateway"]
