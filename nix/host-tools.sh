#!/bin/sh
# Copies built programs, and the shared libraries that they need, for nix/host.nix. usage: host-tools.sh DIR PROGRAMS
#
#   DIR/stages/NAME/bin/NAME   one folder a program, so that a changed one changes nothing for the others
#   DIR/lib                    the loader and the libraries
#   DIR/shell/bin              what makes folders and links
set -eu
dir=$1 programs=$2
stages='import-model prepare-data train validate select-best fuse evaluate report generate'

# Left out: debug information, which differs from build to build and is half of the size.
add() {
    mkdir -p "$dir/$2"
    strip -o "$dir/$2/${1##*/}" "$1" 2>/dev/null || cp "$1" "$dir/$2/"
    ldd "$1" | sed -n 's|.* => \(/[^ ]*\).*|\1|p; s|^[[:space:]]*\(/[^ ]*/ld-linux[^ ]*\).*|\1|p' |
        while read -r library; do cp -Lu "$library" "$dir/lib/"; done
}

rm -rf "$dir"
mkdir -p "$dir/lib"
for stage in $stages; do add "$programs/$stage" "stages/$stage/bin"; done
for tool in sh mkdir ln; do add "$(command -v $tool)" shell/bin; done
