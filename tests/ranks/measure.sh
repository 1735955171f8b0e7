#!/bin/sh
# Times the exchange of gradients between ranks in network namespaces whose connections are limited by `tc`.
# usage: tests/ranks/measure.sh PROGRAM RANKS RATE [NUMBERS…]   (PROGRAM: the built example `exchange`; needs root)
# Prints the lines of the example, and the bytes that rank 0 has sent.
# Without the right to make namespaces, or without `tc`, it says so and measures nothing.
set -eu
program=$1 ranks=$2 rate=$3
shift 3
name=ashm$$
folder=$(mktemp -d)
cleanup() {
    for rank in $(seq 0 $((ranks - 1))); do ip netns delete "$name-$rank" 2>/dev/null || true; done
    ip link delete "$name" 2>/dev/null || true
    rm -rf "$folder"
}
trap cleanup EXIT
skip() { echo "skipped: $1" >&2; exit 0; }
ip link add "$name" type bridge || skip 'no network devices can be made here'
ip link set "$name" up
hosts=
for rank in $(seq 0 $((ranks - 1))); do
    space=$name-$rank
    ip netns add "$space" || skip 'no network namespaces can be made here'
    ip link add "${name}o$rank" type veth peer name "${name}i$rank"
    ip link set "${name}i$rank" netns "$space"
    ip link set "${name}o$rank" master "$name" up
    ip -n "$space" addr add "10.78.0.$((rank + 1))/24" dev "${name}i$rank"
    ip -n "$space" link set "${name}i$rank" up
    ip -n "$space" link set lo up
    ip netns exec "$space" tc qdisc add dev "${name}i$rank" root tbf rate "$rate" burst 2mb latency 100ms ||
        skip "\`tc\` cannot limit the connection to $rate"
    hosts="$hosts${hosts:+, }[\"10.78.0.$((rank + 1)):5000\"]"
done
echo "[$hosts]" >"$folder/hosts.json"
pids=
for rank in $(seq $((ranks - 1)) -1 0); do
    MLX_HOSTFILE=$folder/hosts.json MLX_RANK=$rank \
        ip netns exec "$name-$rank" "$program" "$@" >"$folder/$rank.out" 2>"$folder/$rank.err" &
    pids="$pids $!"
done
for pid in $pids; do wait "$pid" || { cat "$folder"/*.err >&2; exit 1; }; done
sed "s/}/, \"rate\": \"$rate\"}/" "$folder/0.out"
sent=$(ip netns exec "$name-0" cat "/sys/class/net/${name}i0/statistics/tx_bytes")
echo "{\"ranks\": $ranks, \"sent_bytes_of_rank_0\": $sent}"
