# The serving image: the serve group of pyproject.toml at hashed versions, the packages that serve, the shipped model.
# No torch, no compiler, no shell tools beyond the base image's: the policy is compiled where it is built. Written for
# the classic builder too.

FROM python:3.11-slim-bookworm AS build
COPY constraints/serve.txt /build/serve.txt
RUN python -m venv /opt/anytime \
    && /opt/anytime/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /build/serve.txt \
    && /opt/anytime/bin/pip uninstall --yes setuptools pip
COPY deploy/ready.py /app/ready.py
COPY model_repo /app/model_repo
COPY server /app/server
COPY constraints/compile.txt deploy/compile.py /build/deploy/
# Where there are no packages to be had, the policy runs from its sources: deploy/compile.py says so.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev || echo "no C compiler"
RUN ln -s /app/server /build/server \
    && python -m venv /opt/compiler \
    && /opt/compiler/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /build/deploy/compile.txt \
    && ANYTIME_COMPILED=/opt/anytime/share/anytime /opt/compiler/bin/python /build/deploy/compile.py
# The root file system is read-only when it runs, so the bytecode is made here.
RUN /opt/anytime/bin/python -m compileall -q /app && install -d -m 0755 /state

FROM python:3.11-slim-bookworm
ENV PATH=/opt/anytime/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    ORT_DISABLE_TELEMETRY=1 \
    ANYTIME_HOST=0.0.0.0 \
    ANYTIME_PORT=8000 \
    ANYTIME_STATE_DIR=/var/lib/anytime
COPY --from=build /opt/anytime /opt/anytime
COPY --from=build /app /app
# Latency profiles: worth keeping across restarts, safe to lose.
COPY --from=build --chown=65532:65532 /state /var/lib/anytime
WORKDIR /app
USER 65532:65532
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["python", "-IS", "/app/ready.py"]
ENTRYPOINT ["python", "-m", "server"]
