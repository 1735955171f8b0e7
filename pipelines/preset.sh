#!/bin/sh
# Checks that a model preset exists. usage: preset.sh MODEL
#
# Otherwise lists all presets, and names the nearest one.
set -eu
model=$1
cd "$(dirname "$0")/models"
case $model in
    */* | .*) ;;
    *) if [ -f "$model.toml" ]; then exit 0; fi ;;
esac
{
    echo "error: there is no model preset \`$model\`"
    # Edit distance of each name; a name that begins like the wanted one is nearer.
    nearest=$(ls ./*.toml | sed 's|^\./||; s|\.toml$||' | MODEL=$model LC_ALL=C awk '
        function least(a, b) { return a < b ? a : b }
        function distance(a, b,   i, j, cost, row, last) {
            for (j = 0; j <= length(b); j++) row[j] = j
            for (i = 1; i <= length(a); i++) {
                last = row[0]; row[0] = i
                for (j = 1; j <= length(b); j++) {
                    cost = last + (substr(a, i, 1) != substr(b, j, 1))
                    last = row[j]
                    row[j] = least(cost, least(row[j], row[j - 1]) + 1)
                }
            }
            return row[length(b)]
        }
        BEGIN { wanted = tolower(ENVIRON["MODEL"]) }
        {
            d = distance(wanted, $0)
            if (index($0, wanted) == 1 || index(wanted, $0) == 1) d = 0.5 + d / 100
            if (best == "" || d < lowest) { best = $0; lowest = d }
        }
        END { print best }')
    echo "hint: the nearest name is \`MODEL=$nearest\`"
    echo "presets:"
    ls ./*.toml | sed 's|^\./|  |; s|\.toml$||'
} >&2
exit 2
