# kdcache with CUDA. Build:  docker build -t kdcache .
# Run:  docker run --gpus all -v "$PWD":/data kdcache train-student configs/runs/mine.yaml
FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home kdcache \
    && install --directory --owner=kdcache /data

ENV PATH=/opt/kdcache/bin:$PATH \
    PYTHONUNBUFFERED=1

WORKDIR /src
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
COPY configs configs
COPY kdcache kdcache
RUN python3 -m venv /opt/kdcache \
    && pip install --no-cache-dir --constraint constraints.txt .

USER kdcache
WORKDIR /data
ENTRYPOINT ["kdcache"]
CMD ["--help"]
