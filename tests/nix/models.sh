# Base models: pinned presets, fetched once by hash, and folders added once.

commit=0123456789abcdef0123456789abcdef01234567
hub=$work/hub/org/tiny/resolve/$commit
mkdir -p "$hub/additional_chat_templates"
cp tests/golden/gemma3_text/{config.json,model.safetensors,tokenizer.json,tokenizer_config.json} "$hub/"
# A file in a folder: its name has a slash.
printf '{{ messages }}' >"$hub/additional_chat_templates/tool_use.jinja"
preset=$work/tiny.toml
{
    printf '[import-model]\nid = "org/tiny"\nrevision = "%s"\n[import-model.files]\n' $commit
    (cd "$hub" && find . -type f -exec sha256sum {} + | sed 's|\([0-9a-f]*\)  ./\(.*\)|"\2" = "\1"|')
} >"$preset"

python3 -u - "$work" >"$work/requests" 2>&1 <<'PYTHON' &
import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1] + "/hub")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
open(sys.argv[1] + "/port.new", "w").write(str(server.server_port))
import os; os.rename(sys.argv[1] + "/port.new", sys.argv[1] + "/port")
server.serve_forever()
PYTHON
server=$!
for _ in $(seq 100); do [ -e "$work/port" ] || sleep 0.1; done
address=http://127.0.0.1:$(cat "$work/port")
hubbed() { small --arg model "$preset" --argstr hub "$address" "$@"; }

echo 'a pinned preset is fetched and equals what the program imports'
quietly hubbed -A import-model
imported=$(in_store "$(cat "$work/out")")
same 5 "$(grep -c '"GET ' "$work/requests")" 'files that are fetched'
snapshot=$work/hub-cache/models--org--tiny/snapshots/$commit
mkdir -p "$snapshot"
cp -r "$hub"/* "$snapshot/"
HF_HUB_CACHE=$work/hub-cache HF_HUB_OFFLINE=1 SOURCE_DATE_EPOCH=1 \
    "$programs/import-model" --config "$preset" --out "$work/imported" >/dev/null 2>"$work/log" || fail "$(cat "$work/log")"
# The program itself is another: Nix copied it.
diff -r -x provenance.json -x COMMIT "$work/imported" "$imported"

echo 'a wheel is fetched by its hash, and its member equals the folder'
package=$work/hub/packages/py3/t/tiny-model
mkdir -p "$package"
python3 - "$hub" "$package/tiny_model-1.0-py3-none-any.whl" <<'PYTHON'
import pathlib, sys, zipfile
with zipfile.ZipFile(sys.argv[2], "w", zipfile.ZIP_DEFLATED) as wheel:
    for path in sorted(pathlib.Path(sys.argv[1]).rglob("*")):
        wheel.write(path, f"tiny_model/model/{path.relative_to(sys.argv[1])}")
PYTHON
wheel=$work/wheel.toml
printf '[import-model]\nwheel = "tiny-model==1.0"\nsha256 = "%s"\nmember = "tiny_model/model"\n' \
    "$(sha256sum "$package"/*.whl | cut -d' ' -f1)" >"$wheel"
small --arg model "$wheel" --argstr pypi "$address" -A import-model >"$work/out" 2>"$work/log" || fail "$(cat "$work/log")"
diff -r "$(in_store "$(cat "$work/out")")/data/model" "$imported/data/model"

echo 'files in the store are not requested again'
kill $server
wait $server 2>/dev/null || true
quietly hubbed -A import-model
small --arg model "$preset" --argstr hub http://127.0.0.1:1 -A import-model >"$work/out" 2>"$work/log" ||
    fail "the address is part of the hash: $(cat "$work/log")"

echo 'a file with another hash is refused'
sed 's/^"config.json" = "./"config.json" = "0/; s/^"config.json" = "00/"config.json" = "01/' "$preset" >"$work/wrong.toml"
if small --arg model "$work/wrong.toml" --argstr hub "file://$work/hub" -A import-model >/dev/null 2>"$work/log"; then
    fail 'a file with another hash was accepted'
fi

echo 'a folder added once is named by its hash'
cp -r "$hub" "$work/tiny"
hash=$(nix hash path --type sha256 --base16 "$work/tiny")
named=(--arg model "{ name = \"tiny\"; sha256 = \"$hash\"; }" -A import-model)
if small "${named[@]}" >/dev/null 2>"$work/log"; then fail 'a missing folder was accepted'; fi
grep -q 'nix-store --add-fixed --recursive sha256 tiny' "$work/log" || fail "the hint is missing: $(cat "$work/log")"
nix-store --add-fixed --recursive sha256 "$work/tiny" >/dev/null
quietly small "${named[@]}"
added=$(in_store "$(cat "$work/out")")
quietly small --arg model "$work/tiny" -A import-model
diff -r "$added/data" "$(in_store "$(cat "$work/out")")/data"

echo 'an encoder is imported with its own settings, and evaluate scores with it'
quietly small --arg encoder ./crates/models/tests/encoders/bert -A evaluate
grep -q '"similarity"' "$(in_store "$(cat "$work/out")")/data/metrics.json" || fail 'there is no score of similarity'
preset_runs() {
    nix-instantiate --eval --strict --arg tools "$tools" --expr "
        { tools }: builtins.attrNames ((import ./nix/host.nix { inherit tools; model = \"$1\"; }).haw-eng)" 2>"$work/log" || fail "$(cat "$work/log")"
}
case $(preset_runs smollm2-135m) in *'"encoder"'*) ;; *) fail 'a preset has no encoder' ;; esac
case $(preset_runs demo) in *'"encoder"'*) fail 'the demo has an encoder' ;; esac
