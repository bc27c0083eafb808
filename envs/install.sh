#!/usr/bin/env bash
# Installs torch and what files of pinned packages list, each package by its hash:
#     bash envs/install.sh PYTHON FILE...
set -euo pipefail
python=$1 envs=$(dirname "$0")
shift
install() { # what comes as source is built with the setuptools of torch.txt, not with one fetched for it
    "$python" -m pip install --quiet --require-hashes --no-deps --no-build-isolation --requirement "$@"
}

install "$envs/torch-cpu.txt" --no-index 2> /dev/null || true # from local files, where pip knows of it
install "$envs/torch.txt"
if "$python" -c 'import importlib.metadata as m; exit("nvidia" not in str(m.requires("torch")))'; then
    install "$envs/cuda.txt"
fi
for file; do
    install "$file"
done
