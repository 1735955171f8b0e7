# Evaluation: pipelines that instantiate, mistakes that are refused, and the effect of a changed source.

for file in $(git ls-files '*.nix' 2>/dev/null || find . -name '*.nix'); do
    nix-instantiate --parse "$file" >/dev/null || fail "\`$file\` does not parse"
done
for tool in 'nixpkgs-fmt --check' 'deadnix --fail' 'statix check'; do
    command -v "${tool%% *}" >/dev/null || continue
    for path in flake.nix nix pipelines tests/nix; do $tool "$path" || fail "$tool $path"; done
done

echo 'every pipeline instantiates'
nix-instantiate nix/host.nix --arg tools "$tools" -A haw-eng.run >/dev/null 2>"$work/log" || fail "$(cat "$work/log")"
for file in pipelines/*.toml; do
    nix-instantiate --arg tools "$tools" --arg file "./$file" --expr '
        { tools, file }: ((import ./nix/host.nix { inherit tools; }).mkPipeline {
            name = "some"; settings = [ file ]; data = ./data/haw-eng; model = ./tests/golden/llama;
        }).run' >/dev/null 2>"$work/log" || fail "$file: $(cat "$work/log")"
done
for preset in pipelines/models/*.toml; do
    name=$(basename "$preset" .toml)
    nix-instantiate --eval --read-write-mode --arg tools "$tools" --argstr name "$name" --expr '
        { tools, name }: (import ./nix/host.nix { inherit tools; model = name; }).haw-eng.run.drvPath' >"$work/log" 2>&1 ||
        grep -q 'is not pinned' "$work/log" || fail "$preset: $(cat "$work/log")"
done

echo 'mistakes are refused with a message'
refused() {
    if nix-instantiate tests/nix/errors.nix --arg tools "$tools" -A "$1" >"$work/log" 2>&1; then fail "$1 is not refused"; fi
    grep -q "^ *error: $2" "$work/log" || fail "$1 is refused with $(cat "$work/log")"
}
refused float '.*mine.toml: train.learning_rate: .* write it in quotes'
refused nested-float '.*mine.toml: prepare-data.where.at_least: .* write it in quotes'
refused float-override 'overrides: train.learning_rate: .* write it in quotes'
refused function-override 'overrides: train.rank: a lambda is not a setting'
refused unknown-table '.*mine.toml: there is no stage `trian`; there are evaluate, '
refused unknown-override 'overrides: there is no stage `trian`'
refused unknown-preset 'there is no model preset `gemma-9` in pipelines/models; there are .*demo'
refused unpinned-preset 'the model `mlx-community/gemma-3-4b-it-4bit` is not pinned, .* --write-lock'
refused wrong-output 'train: `model` needs model, but prepare-data makes rows, tokens'
refused wrong-named-output 'evaluate: `model` needs model, but prepare-data makes'
refused missing-input 'train: the input `dataset` is missing'
refused unknown-input 'import-model has no input `date`; it has model-dir'
refused unknown-stage 'there is no stage `trian`; there are '
refused no-stage 'import-model: the input `model-dir` is neither a stage nor a source'

echo 'the pinned hashes equal those that make uses'
grep -o 'hash = "sha256-[^"]*"' nix/mlx.nix | cut -d'"' -f2 | while read -r hash; do
    plain=$(nix hash to-base16 --type sha256 "$hash")
    grep -rq "$plain" crates/mlx-sys/native/ || echo "$hash"
done >"$work/unknown"
# The published crate is pinned as a folder here and as an archive there.
same 1 "$(wc -l <"$work/unknown")" 'hashes in nix/mlx.nix that make does not know'

echo 'a slice contains what a program needs, and no more'
copy=$work/checkout
mkdir "$copy"
cp -r Cargo.toml Cargo.lock rust-toolchain.toml crates stages tools nix "$copy/"
slices() {
    nix-instantiate --eval --strict --read-write-mode --expr '
        let slice = import '"$copy"'/nix/slice.nix { root = '"$copy"'; }; in
        map (name: "${name} ${slice name}\n") (builtins.attrNames (builtins.readDir '"$copy"'/stages // builtins.readDir '"$copy"'/tools))' |
        grep -o '[a-z-]* /nix/store/[^\\]*'
}
slices >"$work/before"
echo '// changed' >>"$copy/stages/validate/src/lib.rs"
slices >"$work/after"
same validate "$(diff "$work/before" "$work/after" | sed -n 's/^> \([^ ]*\).*/\1/p')" 'programs that change with validate'
echo '// changed' >>"$copy/crates/metrics/src/lib.rs"
slices >"$work/last"
same 'artifacts evaluate report select-best sweep' "$(diff "$work/after" "$work/last" | sed -n 's/^> \([^ ]*\).*/\1/p' | tr '\n' ' ' | sed 's/ $//')" \
    'programs that change with metrics'

# Cargo finds every package and uses the pinned versions. Offline, it must have seen those of the tests too.
cargo fetch --locked --quiet
while read -r name path; do
    slice=$work/slice
    cp -r "$(in_store "$path")" "$slice"
    chmod -R u+w "$slice"
    (cd "$slice" && sh "$copy/nix/slice-members.sh" && cargo metadata --offline --quiet --format-version 1 --filter-platform "$(rustc -vV | sed -n 's/^host: //p')") \
        >/dev/null || fail "the slice of $name is incomplete"
    versions() { grep -A1 '^name = ' "$1" | grep -v '^--' | paste - - | sort -u; }
    same '' "$(comm -13 <(versions Cargo.lock) <(versions "$slice/Cargo.lock"))" "versions that $name uses"
    rm -rf "$slice"
done <"$work/before"
