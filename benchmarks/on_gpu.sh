#!/usr/bin/env bash
# The first minutes on a machine with a GPU: its tests, then the speed and memory of each part, at the released size with
# random weights. It needs no network and nothing outside the repository, and takes at most eight minutes.
#
#   benchmarks/on_gpu.sh --download_wheels      where there is a network: fetches what such a machine may lack
#   benchmarks/on_gpu.sh                        on the machine with a GPU
#   benchmarks/on_gpu.sh --list | --help        the parts; the other flags
#
# Each result is a line of JSON in on_gpu.jsonl (in the folder $OUT, if it is set), written as soon as it exists.
# PYTHON names the interpreter: .venv/bin/python if it is there, else python3. WHEELS names the folder of wheels: .wheels.
# Wheels are for Python 3.12 on Linux, x86-64, and only those that the interpreter lacks are installed: into a temporary
# folder, which is removed at the end.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

WHEELS=${WHEELS:-.wheels}
MOST_BYTES=$((64 * 1024 * 1024))  # of the repository's files and the wheels together
# Sound files; the features of the data check; and what these two import. The program itself needs soundfile alone.
NEEDED=(soundfile cffi pycparser librosa soxr pooch platformdirs audioread msgpack decorator lazy-loader)
LARGE=(bitsandbytes)  # 4-bit weights; left out where it is too large

default_python=python3
[ -x .venv/bin/python ] && default_python=.venv/bin/python
read -r -a python <<< "${PYTHON:-$default_python}"

# The number of bytes of the repository's files, without those that git ignores.
repository_bytes() {
    git ls-files -z --cached --others --exclude-standard | xargs -0 du -cb 2> /dev/null | awk '$2 == "total" {n += $1} END {print n + 0}'
}

download() {
    local platforms=()
    for platform in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
        platforms+=(--platform "${platform}_x86_64")
    done
    "${python[@]}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.12 --implementation cp "${platforms[@]}" --constraint requirements.txt --dest "$WHEELS" "$@"
}

download_wheels() {
    mkdir -p "$WHEELS"
    rm -f "$WHEELS"/*.whl
    download "${NEEDED[@]}"
    for name in "${LARGE[@]}"; do
        download "$name"
        if [ "$(size_of_all)" -gt "$MOST_BYTES" ]; then
            rm "$WHEELS/$name"-*.whl
            echo "$name is too large; the parts that need it will fail where it is not installed" >&2
        fi
    done
    local size
    size=$(size_of_all)
    if [ "$size" -gt "$MOST_BYTES" ]; then
        echo "error: the repository and $WHEELS have $size bytes; the most is $MOST_BYTES" >&2
        return 1
    fi
    echo "$WHEELS has $(find "$WHEELS" -name '*.whl' | wc -l) wheels; with the repository $size bytes, at most $MOST_BYTES"
}

size_of_all() {
    echo $(($(repository_bytes) + $(du -cb "$WHEELS"/*.whl | awk '$2 == "total" {print $1}')))
}

# Print the wheels of packages that the interpreter lacks.
missing_wheels() {
    "${python[@]}" - "$WHEELS"/*.whl << 'EOF'
import importlib.metadata
import pathlib
import sys

for wheel in map(pathlib.Path, sys.argv[1:]):
    try:
        importlib.metadata.version(wheel.name.split("-")[0])
    except importlib.metadata.PackageNotFoundError:
        print(wheel)
EOF
}

# Install these wheels into the folder $1.
install_wheels() {
    local missing
    mapfile -t missing < <(missing_wheels)
    [ ${#missing[@]} -eq 0 ] && return
    "${python[@]}" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
        --target "$1" "${missing[@]}"
    export PYTHONPATH="$1${PYTHONPATH:+:$PYTHONPATH}"
}

if [ "${1:-}" = --download_wheels ]; then
    download_wheels
    exit
fi
if [ -d "$WHEELS" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    install_wheels "$site" || echo "the wheels in $WHEELS could not be installed; parts that need them will fail" >&2
fi
"${python[@]}" -m benchmarks.gpu_parts "$@"
