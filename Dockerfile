# kdcache with CUDA. PyTorch's wheels bring CUDA's libraries, so the small base image will do; the torch of constraints.txt
# is built for CUDA 13, and so is the image. The machine needs a driver (580 or newer) and NVIDIA's container toolkit.
# Ubuntu 24.04 has Python 3.12; the tests run on 3.11.
#   docker build -t kdcache .
#   docker run --gpus all --user "$(id -u):$(id -g)" -v "$PWD":/data kdcache train-student study.yaml --alpha 0
# --user: files in the mounted folder belong to you. Several GPUs also need --shm-size=1g or more.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --no-create-home --home-dir /opt/home kdcache \
    && install --directory --mode=1777 /opt/home /data

WORKDIR /src
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
COPY configs configs
COPY kdcache kdcache
RUN python3 -m venv /opt/kdcache \
    && /opt/kdcache/bin/pip install --no-cache-dir --constraint constraints.txt .

# HOME and USER: for users without an entry in /etc/passwd, which --user may bring.
ENV PATH=/opt/kdcache/bin:$PATH \
    HOME=/opt/home \
    USER=kdcache \
    PYTHONUNBUFFERED=1

USER kdcache
WORKDIR /data
ENTRYPOINT ["kdcache"]
CMD ["--help"]
