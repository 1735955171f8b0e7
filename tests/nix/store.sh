# Caches, remote builders, garbage collection, early cutoff.

quietly small -A run
run=$(cat "$work/out")

echo 'a signed cache fills a second store'
nix-store --generate-binary-cache-key test-1 "$work/secret" "$work/public"
derivation=$(nix-instantiate tests/nix/small.nix --arg tools "$tools" -A run 2>/dev/null)
nix-store -qR --include-outputs "$derivation" | grep -v '\.drv$' >"$work/paths"
xargs nix copy --to "file://$work/cache?secret-key=$work/secret" <"$work/paths" 2>"$work/log" || fail "$(cat "$work/log")"
second=$work/second
from_cache() {
    small --store "$second" --option substituters "file://$work/cache" --option trusted-public-keys "$1" "${@:2}"
}
stranger='test-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='
quietly from_cache "$stranger" -A import-model
same 'import-model ' "$(built)" 'stages that run with a cache signed by another key'
quietly from_cache "$(cat "$work/public")" -A run
same '' "$(built)" 'stages that run in the second store'
same "$run" "$(cat "$work/out")" 'the run in the second store'
diff -r "$(in_store "$(readlink "$(in_store "$run")/train")")" "$(in_store "$(readlink "$(in_store "$run")/train")" "$second")"
quietly from_cache "$(cat "$work/public")" -A run --arg overrides '{ evaluate.generated_rows = 3; }'
same 'evaluate report ' "$(built)" 'stages that run in the second store with one setting changed'

echo 'a sweep on remote builders'
sweep() { small -A train --arg overrides "{ train.rank = $1; }" --max-jobs 0 --builders "ssh://localhost?remote-store=$work/machine$2 $(system) - 1 1"; }
system() { nix-instantiate --eval --expr builtins.currentSystem | tr -d '"'; }
for rank in 2 3; do
    quietly sweep $rank $rank
    grep -q "on 'ssh://localhost" "$work/log" || fail "it was not built remotely: $(cat "$work/log")"
    [ -e "$(in_store "$(cat "$work/out")")/COMMIT" ] || fail 'the result did not come back'
    [ -e "$(in_store "$(cat "$work/out")" "$work/machine$rank")" ] || fail 'it is not in the store of the other machine'
done

echo 'a kept run keeps all its stages'
quietly nix-build tests/nix/small.nix --arg tools "$tools" -A run --out-link "$work/kept"
other=$(in_store "$(small -A train --arg overrides '{ train.rank = 2; }' 2>/dev/null)")
[ -e "$other" ] || fail 'nothing to collect'
quietly nix-store --gc --option keep-outputs false
[ ! -e "$other" ] || fail 'an unused path was not collected'
for stage in $all; do
    [ -e "$(in_store "$(readlink "$(in_store "$run")/$stage")")/COMMIT" ] || fail "$stage was collected"
done
same '' "$(planned small -A run)" 'stages that would run after the collection'

echo 'content-addressed: the same bytes from another program rerun nothing'
floating() { small --arg contentAddressed true "$@"; }
quietly floating -A report
same "$all" "$(built)" 'stages that run'
for stage in $all; do
    addressed=$(floating -A "$stage" 2>/dev/null)
    diff -r "$(in_store "$addressed")" "$(in_store "$(readlink "$(in_store "$run")/$stage")")" || fail "$stage differs when content-addressed"
done
changed=$work/cutoff
cp -r "$tools" "$changed"
printf '\0' >>"$changed/programs/prepare-data/bin/prepare-data"
quietly floating --arg tools "$changed" -A report
same 'prepare-data ' "$(built)" 'stages that run with another prepare-data'
