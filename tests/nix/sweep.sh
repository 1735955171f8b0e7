# A sweep on two remote builders with stores of their own, and by make: the same artifacts.

# Make runs in a copy, where the settings of the small pipeline are a pipeline.
checkout=$work/checkout
mkdir -p "$checkout/data"
cp -r Makefile pipelines "$checkout/"
cp -r data/haw-eng "$checkout/data/"
cp tests/fixtures/small.toml "$checkout/pipelines/"
cat >"$checkout/pipelines/sweeps/two-by-two.toml" <<'TOML'
pipeline = "small"

[vary.train]
rank = [2, 3]
learning_rate = ["1e-3", "2e-3"]
TOML
in_checkout() (cd "$checkout" && "$@")
quietly in_checkout "$programs/sweep" two-by-two --nix "$work/members.nix"

echo 'on two builders'
system=$(nix-instantiate --eval --expr builtins.currentSystem | tr -d '"')
builder() { echo "ssh://localhost?remote-store=$work/builder$1 $system - 1 1"; }
swept() { nix-build tests/nix/sweep.nix --arg tools "$tools" --arg members "$work/members.nix" --no-out-link "$@"; }
quietly swept --max-jobs 0 --builders "$(builder 1) ; $(builder 2)"
sort "$work/out" >"$work/runs"
same 4 "$(wc -l <"$work/runs")" 'runs'
for number in 1 2; do
    ls -d "$work/builder$number"/nix/store/*-train >/dev/null || fail "builder $number trained nothing"
done

echo 'by make'
quietly in_checkout make --no-print-directory sweep SWEEP=two-by-two BIN="$programs" MODEL_DIR="$PWD/tests/golden/gemma3_text" \
    DATA=data/haw-eng STORE="$work/swept" BUILD="$work/sweep-build"
while read -r run; do
    name=${run#*-run-two-by-two-}
    for stage in $all; do
        made=$(cat "$work/sweep-build/sweeps/two-by-two/$name/small/demo/$stage.path")
        ours=$(in_store "$(readlink "$(in_store "$run")/$stage")")
        diff -r "$made/data" "$ours/data" || fail "$name: $stage differs between make and Nix"
        cmp "$made/manifest.json" "$ours/manifest.json"
    done
done <"$work/runs"

echo 'again, nothing is built'
quietly swept
same '' "$(built)" 'stages that run again'
