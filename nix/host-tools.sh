#!/bin/sh
# Copies built programs and their shared libraries for nix/host.nix. usage: host-tools.sh DIR PROGRAMS
#
#   DIR/programs/NAME/bin/NAME   one folder per program, so that a changed program does not affect the others
#   DIR/lib                      the loader and the libraries
#   DIR/shell/bin                tools that make folders and links
#
# Every folder in stages/ and tools/ is a program.
set -eu
dir=$1 programs=$2
root=$(dirname "$0")/..

# Strips debug information, which differs between builds and is half of the size.
add() {
    mkdir -p "$dir/$2"
    strip -o "$dir/$2/${1##*/}" "$1" 2>/dev/null || cp "$1" "$dir/$2/"
    ldd "$1" | sed -n 's|.* => \(/[^ ]*\).*|\1|p; s|^[[:space:]]*\(/[^ ]*/ld-linux[^ ]*\).*|\1|p' |
        while read -r library; do cp -Lu "$library" "$dir/lib/"; done
}

rm -rf "$dir"
mkdir -p "$dir/lib"
for folder in "$root"/stages/* "$root"/tools/*; do
    name=${folder##*/}
    add "$programs/$name" "programs/$name/bin"
done
for tool in sh mkdir ln; do add "$(command -v $tool)" shell/bin; done
