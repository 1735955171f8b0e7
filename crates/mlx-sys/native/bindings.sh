#!/bin/sh
# Regenerates src/bindings.rs from the headers of the C interface, after an update of mlx-c.
# Requires the bindgen program (0.73) and libclang (LIBCLANG_PATH).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mlx_c=${1:-$here/../../../.native/mlx-c}
headers=$(mktemp)
trap 'rm -f "$headers"' EXIT
(cd "$mlx_c" && for header in mlx/c/*.h; do echo "#include \"$header\""; done) >"$headers"
bindgen "$headers" --rust-target 1.85 --rust-edition 2024 \
    --allowlist-item '(_)?mlx_.*' --blocklist-type 'b?float16_t|FILE|_IO_.*' \
    --blocklist-function 'mlx_array_(item|data)_b?float16' \
    --no-doc-comments --no-layout-tests --merge-extern-blocks --output "$here/../src/bindings.rs" \
    -- -x c -I"$mlx_c" -I"$(cc -print-file-name=include)"
