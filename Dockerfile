# The server alone, on Debian:
#   docker build -t granule .
#   docker run -p 7700:7700 -p 7780:7780 -v "$PWD/models:/models" granule
FROM swift:6.2-bookworm AS build
WORKDIR /granule
COPY scripts/install-dependencies scripts/
RUN scripts/install-dependencies
COPY Package.swift ./
COPY Sources Sources
COPY proto proto
COPY serve serve
COPY training training
COPY Tests Tests
RUN swift build -c release --product granule --static-swift-stdlib

FROM debian:bookworm-slim
RUN apt-get update -qq \
  && apt-get install -y -qq --no-install-recommends \
    libuv1 libprotobuf-c1 libopenblas0-pthread libjansson4 libssl3 libmicrohttpd12 libzip4 \
  && rm -rf /var/lib/apt/lists/* \
  && adduser --system --group --no-create-home granule
COPY --from=build /granule/.build/release/granule /usr/local/bin/
USER granule
EXPOSE 7700 7780
STOPSIGNAL SIGTERM
ENTRYPOINT ["granule"]
# The repository may be mounted read-only: the admin socket lies elsewhere.
CMD ["serve", "--repository", "/models", "--listen", "0.0.0.0:7700", \
  "--admin-listen", "unix:/tmp/granule-admin.sock", "--http", "0.0.0.0:7780"]
