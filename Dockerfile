# syntax=docker/dockerfile:1
#
#   docker build --target cpu -t ponder:cpu .        docker build --target gpu -t ponder:gpu .
#   docker build --target door -t ponder:door .      no engine in it: for models on vLLM servers elsewhere
#   docker build --target console -t ponder:console .      pages for a server, docs/console.md
#
# In a container the server listens beyond loopback, so it wants an API key: `ponder keys new NAME` prints the key and the
# table for ponder.toml, which is mounted:
#
#   docker run --rm ponder:cpu keys new me
#   docker run --rm -p 8000:8000 -v "$PWD/ponder.toml:/app/ponder.toml:ro" \
#       -v ponder-state:/home/ponder/.local/state/ponder ponder:cpu
#   docker run --rm -p 8000:8000 -v "$PWD/ponder.toml:/app/ponder.toml:ro" --gpus all --ipc=host \
#       -v ponder-state:/home/ponder/.local/state/ponder \
#       -v ponder-models:/home/ponder/.cache/huggingface ponder:gpu serve Qwen/Qwen3-8B --host 0.0.0.0
#
# The volume ponder-state keeps the ledger (docs/metering.md), which would go with the container; [ledger] url names another.
#
# The verifier `code` runs programs in bubblewrap, which makes user namespaces; Docker's default profiles refuse them.
# They are allowed by a seccomp profile with clone, unshare, mount, umount2 and pivot_root in it, or without one by
#
#   docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined ...
#
# and on a host that restricts them (Ubuntu since 23.10) by `sysctl kernel.apparmor_restrict_unprivileged_userns=0`.
# Where they are not allowed no program is run, and the verifier's fallback judges. --privileged is not needed.
#
# No weights are downloaded while an image is built; the cpu image serves the small reasoner that is in this repository.

FROM python:3.12-slim-bookworm AS base
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app


FROM base AS sources
COPY pyproject.toml README.md LICENSE ./
COPY tools tools
COPY clients clients
COPY compute compute
COPY console console
COPY engines engines
COPY metering metering
COPY evaluation evaluation
COPY models models
COPY ponder ponder
COPY server server
COPY strategies strategies
COPY testing testing
COPY verifiers verifiers


# Who serves may not write here: without bytecode each start would compile torch and vLLM anew. Some packages bring files
# that no Python can compile, which is no failure.
FROM sources AS cpu-installed
RUN apt-get update && apt-get install -y --no-install-recommends libnuma1
RUN --mount=type=cache,target=/root/.cache/uv UV_LINK_MODE=copy python3 tools/install.py cpu \
    && { .venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash . >/dev/null || true; }


FROM sources AS gpu-installed
RUN --mount=type=cache,target=/root/.cache/uv UV_LINK_MODE=copy python3 tools/install.py gpu \
    && { .venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash . >/dev/null || true; }


FROM sources AS door-installed
RUN --mount=type=cache,target=/root/.cache/uv UV_LINK_MODE=copy python3 tools/install.py server \
    && { .venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash . >/dev/null || true; }


FROM sources AS console-installed
RUN --mount=type=cache,target=/root/.cache/uv UV_LINK_MODE=copy python3 tools/install.py console \
    && { .venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash . >/dev/null || true; }


FROM base AS console
# Pages for a server elsewhere (docs/console.md): docker run -p 127.0.0.1:8080:8080 ponder:console --server http://HOST:8000
RUN useradd --uid 10001 --create-home ponder
USER ponder
COPY --from=console-installed /app /app
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/login', timeout=4)"]
ENTRYPOINT ["ponder", "console", "--host", "0.0.0.0"]


FROM base AS runtime
# The sandbox of the verifier `code`.
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home ponder \
    && mkdir -p /home/ponder/.cache/huggingface /home/ponder/.local/state/ponder \
    && chmod 700 /home/ponder/.local/state/ponder \
    && chown -R ponder /home/ponder/.cache /home/ponder/.local
USER ponder
EXPOSE 8000
# Alive, not ready: a server that loads a model or drains must not be restarted for it. Readiness is /readyz.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
ENTRYPOINT ["ponder"]
CMD ["serve", "--host", "0.0.0.0"]


FROM runtime AS cpu
USER root
# vLLM's CPU build wants libnuma.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/*
USER ponder
COPY --from=cpu-installed /app /app


FROM runtime AS gpu
USER root
# Triton compiles its launchers when the model is loaded.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER ponder
COPY --from=gpu-installed /app /app


FROM runtime AS door
COPY --from=door-installed /app /app
