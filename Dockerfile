# syntax=docker/dockerfile:1
# The worker: one binary, no shell needed, no root.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked -p postern && cp target/release/postern /usr/local/bin/postern

FROM debian:12-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin postern
COPY --from=build /usr/local/bin/postern /usr/local/bin/postern
ENV POSTERN_CONFIG=/etc/postern/postern.toml
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["postern"]
CMD ["run"]
