# The default pipeline on the real data, in the sandbox and by make.

quietly nix-build tests/nix/sandbox.nix --arg tools "$tools" --no-out-link

echo 'by Nix'
quietly nix-build nix/host.nix --arg tools "$tools" -A haw-eng.run --no-out-link
same "$all" "$(built)" 'stages that run'
run=$(cat "$work/out")

echo 'by make'
bin=$work/bin
mkdir "$bin"
for stage in $all; do
    printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' "$tools"/lib/ld-linux* "$tools/lib" "$tools/programs/$stage/bin/$stage" >"$bin/$stage"
    chmod +x "$bin/$stage"
done
quietly make --no-print-directory pipeline BIN="$bin" STORE="$work/artifacts" BUILD="$work/build" MODEL=demo PIPELINE=haw-eng SET=
for stage in $all; do
    made=$(cat "$work/build/haw-eng/demo/$stage.path") ours=$(in_store "$(readlink "$(in_store "$run")/$stage")")
    diff -r "$made/data" "$ours/data" || fail "$stage: make and Nix differ"
    cmp "$made/manifest.json" "$ours/manifest.json"
done

echo 'a second build does nothing'
same '' "$(planned nix-build nix/host.nix --arg tools "$tools" -A haw-eng.run)" 'stages that would run again'

echo 'a changed setting, program or file reruns the stages that depend on it'
quietly small -A run
same "$all" "$(built)" 'stages that run'
quietly small -A run
same '' "$(built)" 'stages that run again'
quietly small -A run --arg overrides '{ train.learning_rate = "1e-3"; }'
same "$from_train" "$(built)" 'stages that run with another learning rate'
same 'evaluate report ' "$(planned small -A run --arg overrides '{ evaluate.generated_rows = 3; }')" 'with another setting of evaluate'
changed=$work/changed
cp -r "$tools" "$changed"
printf '\0' >>"$changed/programs/validate/bin/validate"
same "$from_validate" "$(planned small -A run --arg tools "$changed")" 'stages that run with another validate'

echo 'all stages are deterministic'
for stage in $all; do
    small -A "$stage" --check >/dev/null 2>"$work/log" || fail "$stage is not deterministic: $(cat "$work/log")"
done
