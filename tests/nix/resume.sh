# Long training in segments and with a scratch folder: killed and resumed, it produces the same bytes.

# Long enough to be killed midway; a resume state is saved every 25 steps.
long=(--arg overrides '{ train.steps = 310; train.checkpoint_every = 100; }')
quietly small "${long[@]}" -A train
whole=$(in_store "$(cat "$work/out")")

# Kills the program that writes to the output of a derivation once `reached` succeeds.
kill_builder() {
    local out=$1 reached=$2 pid
    for _ in $(seq 600); do
        if $reached && pid=$(pgrep -f -- "--out $out" | head -n 1); then
            kill -KILL "$pid"
            return
        fi
        sleep 0.1
    done
    fail "nothing to kill: $(cat "$work/log")"
}
output_of() { nix-store --query --outputs "$(nix-instantiate tests/nix/small.nix --arg tools "$tools" "$@" 2>/dev/null)"; }
compare() { diff -r "$whole" "$(in_store "$(cat "$work/out")")" || fail "$1: the bytes differ from those of an unbroken run"; }

echo 'in four segments, killed in the second'
segments=("${long[@]}" --arg segments 4 -A train)
# Segments end between two saves, so that only the resume state in the store helps.
first=$(nix-store --query --references "$(nix-instantiate tests/nix/small.nix --arg tools "$tools" "${segments[@]}" 2>/dev/null)" | grep 'train-3-of-4')
second=$(nix-store --query --references "$first" | grep 'train-2-of-4')
always() { true; }
small "${segments[@]}" >"$work/out" 2>"$work/log" &
builder=$!
kill_builder "$(nix-store --query --outputs "$second")" always
if wait $builder; then fail 'the killed build succeeded'; fi
rm -rf "$work/scratch"/*
same 'train train-2-of-4 train-3-of-4 ' "$(planned small "${segments[@]}")" 'segments that remain'
quietly small "${segments[@]}"
same 'train train-2-of-4 train-3-of-4 ' "$(built)" 'segments that run'
compare 'in segments'

echo 'with a scratch folder, killed after a save'
# A changed program makes another derivation of the same run.
scratched=$work/scratched
cp -r "$tools" "$scratched"
printf '\0' >>"$scratched/programs/train/bin/train"
again=("${long[@]}" --arg tools "$scratched" -A train)
saved() { [ -n "$(find "$work/scratch" -path '*/state/0*' -name SHA256SUMS 2>/dev/null)" ]; }
small "${again[@]}" >"$work/out" 2>"$work/log" &
builder=$!
kill_builder "$(output_of "${again[@]}")" saved
if wait $builder; then fail 'the killed build succeeded'; fi
saved || fail 'no resume state was kept'
quietly small "${again[@]}"
grep -q 'resuming after step' "$work/log" || fail "it started over: $(cat "$work/log")"
compare 'with a scratch folder'
same '' "$(ls "$work/scratch")" 'left in the scratch folder'
