# Weir in a container: locked by hash, no root, no pip, a root file system that may be read-only.
#
#   docker build -t weir .
#   docker run --read-only -p 8787:8787 -p 9090:9090 -v weir:/var/lib/weir -v ./weir.yaml:/etc/weir/weir.yaml:ro weir
#
# The data port is public in here, so keys are required: the first start makes a bootstrap key and prints it once.
# WEIR_LISTEN and WEIR_OPS win over the deployment file; -e replaces them.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /opt/weir && python -m venv /opt/build
COPY requirements.lock requirements-build.lock ./
RUN pip --python /opt/weir/bin/python install --require-hashes --only-binary :all: -r requirements.lock \
 && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
COPY policies policies
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/weir/bin/python install --no-deps --no-index /wheels/*.whl \
 && /opt/weir/bin/python -m compileall -q /opt/weir/lib
# OpenAI's vocabularies, so that nothing is fetched at run time. Without them tokens are estimated, and a build still succeeds.
RUN /opt/weir/bin/weir tokenizers fetch --to /opt/weir/share/tiktoken || echo "the image will estimate tokens"

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="weir" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/weir /opt/weir
# Group 0 may write the state: platforms that give each container a random UID put it into that group.
RUN install -d -m 0775 -g 0 /etc/weir && install -d -m 0770 -o 10001 -g 0 /var/lib/weir
ENV PATH=/opt/weir/bin:$PATH HOME=/var/lib/weir WEIR_HOME=/var/lib/weir WEIR_CONTAINER=1 \
    WEIR_LISTEN=0.0.0.0:8787 WEIR_OPS=0.0.0.0:9090 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    TIKTOKEN_CACHE_DIR=/opt/weir/share/tiktoken
WORKDIR /etc/weir
VOLUME /var/lib/weir
USER 10001:0
EXPOSE 8787 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9090/healthz', timeout=2)"]
ENTRYPOINT ["weir"]
CMD ["serve", "--log-format", "json"]
