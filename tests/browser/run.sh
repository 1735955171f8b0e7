#!/usr/bin/env bash
# Opens the pages of report in a headless browser: run.sh FOLDER, where FOLDER holds pages that `sample` wrote.
# Skipped with a message where no browser is installed. BROWSER names its program.
set -euo pipefail
cd "$(dirname "$0")/../.."
browser=${BROWSER:-}
for name in chromium chromium-browser google-chrome; do
    [ -n "$browser" ] || browser=$(command -v "$name" || true)
done
if [ -z "$browser" ]; then
    echo 'skipped the browser tests: no Chromium found (apt install chromium, or set BROWSER)'
    exit 0
fi
if ! [ -x .venv-browser/bin/python ]; then
    python3 -m venv .venv-browser
fi
.venv-browser/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/browser/requirements.txt
exec .venv-browser/bin/python tests/browser/pages.py "$browser" "$1"
