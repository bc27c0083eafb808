# The packages that `make` installs, from the same lock, with the workflow in /opt/rocm:
#     docker build --tag rocm .
#     docker run --rm --volume "$PWD:/work" rocm snakemake --snakefile /opt/rocm/Snakefile --cores all all
# For Apptainer: `apptainer build rocm.sif docker-daemon://rocm:latest`, then `apptainer exec --nv rocm.sif …`.
FROM python:3.11-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/rocm
COPY envs/ envs/
RUN bash envs/install.sh python envs/requirements.txt && rm -rf /root/.cache
COPY . .
RUN python -m pip install --no-cache-dir --no-deps --no-build-isolation --editable .
# Results, fetched weights and Snakemake's records are where it is started.
WORKDIR /work
CMD ["rocm-core", "--help"]
