# The flake with nix/stub in place of nixpkgs: its packages are the programs from `tools`.

stub=$work/stub flake=$work/flake
mkdir -p "$stub" "$flake"
cp nix/stub/flake.nix "$stub/"
cp -r "$tools" "$stub/tools"
mkdir "$stub/tools/busybox"
cp "$(command -v busybox)" "$stub/tools/busybox/busybox"
for applet in sh mkdir chmod ln cp dirname printf; do ln -s busybox "$stub/tools/busybox/$applet"; done
# Only files of the repository, as Nix would read them from git.
cp -r flake.nix flake.lock Cargo.toml Cargo.lock Makefile rust-toolchain.toml crates stages tools nix pipelines data tests "$flake/"

stubbed=(--override-input nixpkgs "path:$stub" --no-write-lock-file)
# The first argument is a command of nix, of one word or two.
on_flake() { local command; read -ra command <<<"$1"; nix "${command[@]}" "path:$flake$2" "${stubbed[@]}" "${@:3}"; }
derivation_of() { on_flake eval "#$1.drvPath" --raw 2>"$work/log" || fail "$1: $(cat "$work/log")"; }
system=$(nix-instantiate --eval --expr builtins.currentSystem | tr -d '"')

echo 'it shows and checks'
on_flake "flake show" '' >"$work/out" 2>"$work/log" || fail "$(cat "$work/log")"
for output in apps checks devShells formatter legacyPackages lib overlays packages templates; do
    grep -q "$output" "$work/out" || fail "there is no $output"
done
# Nix 2.8 refuses a template's path if the store is not at /nix/store, as here; the path is passed as text instead.
if ! on_flake "flake check" '' >"$work/out" 2>"$work/log"; then
    grep -q "template '.*' has a bad 'path' attribute" "$work/log" || fail "$(cat "$work/log")"
    sed -i 's|path = ./nix/template;|path = "${./nix/template}";|' "$flake/flake.nix"
    quietly on_flake "flake check" ''
fi
built >"$work/built"
grep -q 'train' "$work/built" || fail 'the small pipeline was not built by the checks'
nix eval "path:$flake#lib" >"$work/out" 2>"$work/log" || fail "its library needs nixpkgs: $(cat "$work/log")"

echo 'every attribute is there on every system'
for where in x86_64-linux aarch64-linux aarch64-darwin; do
    for name in default train generate upload haw-eng; do derivation_of "packages.$where.$name" >/dev/null; done
    for kind in pipelines pipelinesCA pipelinesFor.demo; do derivation_of "legacyPackages.$where.$kind.haw-eng.train" >/dev/null; done
done
# Searches the derivation of an attribute.
says() { nix show-derivation "$(derivation_of "$1")" 2>"$work/log" >"$work/says" || fail "$(cat "$work/log")"; grep -q "$2" "$work/says"; }
says legacyPackages.x86_64-linux.cuda.pipelinesFor.demo.haw-eng.train '"requiredSystemFeatures": "cuda"' ||
    fail 'CUDA does not require a machine that has it'
says legacyPackages.aarch64-darwin.pipelines.haw-eng.train '"__noChroot": "1"' || fail 'Metal is kept in the sandbox'
if says legacyPackages.aarch64-darwin.pipelines.haw-eng.report __noChroot; then
    fail 'a stage without a device leaves the sandbox'
fi

echo 'its programs know their sources'
revision_of() { on_flake eval "#legacyPackages.$system.revisions.$1" --raw 2>"$work/log" || fail "$(cat "$work/log")"; }
before=$(revision_of validate) other=$(revision_of train)
echo "$before" | grep -Eq '^source-[0-9a-z]{32}$' || fail "the revision of validate is $before"
echo '// changed' >>"$flake/stages/validate/tests.rs"
[ "$(revision_of validate)" != "$before" ] || fail 'a change of the sources does not show in the revision'
same "$other" "$(revision_of train)" 'the revision of another program'
rm "$flake/stages/validate/tests.rs"
same "$before" "$(revision_of validate)" 'the revision of the same sources'

echo 'its programs run'
on_flake run '#generate' -- --help >"$work/out" 2>"$work/log" || fail "$(cat "$work/log")"
grep -q 'Usage: generate' "$work/out"

echo 'a changed source rebuilds its program and later stages'
plan() { on_flake build "#checks.$system.small" --dry-run 2>&1 | names; }
same '' "$(plan)" 'derivations that would be rebuilt'
echo '// changed' >>"$flake/stages/validate/src/lib.rs"
# `validate` is the program and the stage.
same "$from_validate" "$(plan)" 'derivations that would be rebuilt with another validate'
same 2 "$(on_flake build "#checks.$system.small" --dry-run 2>&1 | grep -c -- '-validate\.drv')" 'derivations named validate'
same 1 "$(on_flake build "#checks.$system.small" --dry-run 2>&1 | grep -c -- '-select-best\.drv')" 'derivations named select-best'

echo 'its template is a pipeline'
cp -r nix/template "$work/mine"
sed -i "s|git+file:///path/to/ashlar|path:$flake|" "$work/mine/flake.nix"
nix build "path:$work/mine#prepare-data" --no-link --no-write-lock-file --override-input ashlar/nixpkgs "path:$stub" \
    >"$work/log" 2>&1 || fail "$(cat "$work/log")"
