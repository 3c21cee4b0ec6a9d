# An image that is fast on every x86-64: it contains llama.cpp's code once for each kind of CPU, and loads the best one.
# See docs/deployment.md.
#
#   docker build -t candor .
#   docker run --rm -p 127.0.0.1:8000:8000 -v candor-models:/models candor
#
# Arguments: FEATURES="otel" adds cargo features; BUILD_IMAGE and RUN_IMAGE are the images to build in and to run on. The
# first must not have a newer glibc than the second.
ARG BUILD_IMAGE=rust:1-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates cmake g++ libclang-dev make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
ARG FEATURES=""
# Keeps downloads and build output for the next build.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target \
    CARGO_HOME=/usr/local/cargo CARGO_TARGET_DIR=/target FEATURES="${FEATURES}" scripts/dist.sh --folder /candor

FROM ${RUN_IMAGE}
LABEL org.opencontainers.image.title="Candor" \
    org.opencontainers.image.description="An OpenAI-compatible completion server whose log-probabilities can be trusted" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0"
# A numeric id, so that a container runtime can verify that it is not root.
RUN groupadd --gid 10001 candor \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /models --shell /usr/sbin/nologin candor \
    && install --directory --owner=10001 --group=10001 /models
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /candor/bin/ /usr/local/bin/
COPY --from=build /candor/lib/ /usr/local/lib/
COPY --from=build /candor/LICENSE /candor/LICENSE-MIT /candor/LICENSE-APACHE /candor/LICENSES-THIRD-PARTY.txt \
    /usr/local/share/doc/candor/
# Downloads, and measurements of this machine.
VOLUME /models
# Inside the container the server listens on all addresses; the published port determines which machines can reach it. If
# others can, set keys: CANDOR_SERVER__API_KEYS_FILE.
ENV CANDOR_SERVER__HOST=0.0.0.0 \
    CANDOR_SERVER__PORT=8000 \
    CANDOR_MODEL__CACHE_DIR=/models \
    HF_HOME=/models/huggingface
EXPOSE 8000
USER 10001:10001
WORKDIR /models
STOPSIGNAL SIGTERM
# The first start downloads a model and measures the machine. Until then the container is starting, not unhealthy.
HEALTHCHECK --interval=10s --timeout=6s --start-period=10m --retries=3 CMD ["candor", "health"]
ENTRYPOINT ["candor"]
CMD ["serve"]
