#!/bin/sh
# Checks exports with the validators of their formats. usage: run.sh FOLDER-WITH-PROGRAMS STORE
set -eu
cd "$(dirname "$0")/../.."
[ -d .venv ] || python3 -m venv .venv
.venv/bin/pip install -q model-signing==1.1.1 pyopenssl in-toto-attestation==0.9.3 roc-validator==0.13.0 rocrate mlcroissant==1.1.1
artifacts="$1/artifacts --store $2"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
openssl ecparam -name prime256v1 -genkey -noout -out "$out/key.pem"
openssl ec -in "$out/key.pem" -pubout -out "$out/public.pem" 2>/dev/null

$artifacts export select-best --to "$out/adapters" --key "$out/key.pem"
.venv/bin/model_signing verify key "$out/adapters" --signature "$out/adapters/model.sig" --public_key "$out/public.pem"
$artifacts export fuse --to "$out/model" --key "$out/key.pem"
verify="model_signing verify key $out/model --signature $out/model/model.sig --public_key $out/public.pem"
.venv/bin/$verify
.venv/bin/python tests/provenance/statements.py "$out/model/provenance.intoto.jsonl" "$out/public.pem"
printf ' ' >>"$out/model/config.json"
if .venv/bin/$verify 2>/dev/null; then echo 'a changed model was accepted' >&2; exit 1; fi

$artifacts export report --to "$out/statements" --format in-toto
.venv/bin/python tests/provenance/statements.py "$out/statements/provenance.intoto.jsonl"
$artifacts export report --to "$out/run"
for profile in ro-crate-1.1 process-run-crate-0.5; do .venv/bin/python tests/provenance/crate.py "$out/run" $profile; done
$artifacts export prepare-data --to "$out/dataset"
.venv/bin/mlcroissant validate --jsonld "$out/dataset/croissant.json"
.venv/bin/python - "$out/dataset/croissant.json" <<'END'
import sys
import mlcroissant
dataset = mlcroissant.Dataset(jsonld=sys.argv[1])
for records in dataset.metadata.record_sets:
    print(f"{records.name}: {sum(1 for _ in dataset.records(records.name))} rows")
END
