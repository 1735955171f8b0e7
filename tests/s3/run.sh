#!/bin/sh
# Pushes to and pulls from S3. usage: run.sh FOLDER-WITH-PROGRAMS
set -eu
cd "$(dirname "$0")/../.."
[ -d .venv ] || python3 -m venv .venv
.venv/bin/pip install -q 'moto[server]==5.2.5'
exec .venv/bin/python tests/s3/check.py "$1/artifacts"
