#!/usr/bin/env bash
# Wheels for a machine without a network, into wheels/: bash bench/gpu/fetch.sh [PYTHON_VERSION]
set -eu
cd "$(dirname "$0")/../.."
pip download -q --no-deps --only-binary=:all: --python-version "${1:-3.12}" \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d wheels \
    greenlet pyzmq msgspec nanobind llguidance
