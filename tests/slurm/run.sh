#!/usr/bin/env bash
# Runs the script of a sweep under Slurm on this machine alone: run.sh PROGRAMS, where PROGRAMS is the folder with the built
# programs. Starts munge and Slurm in a temporary folder and stops them again. Skipped with a message where they are missing or
# cannot start (on Debian: apt-get install slurmctld slurmd slurm-client munge; needs root).
set -euo pipefail
cd "$(dirname "$0")/../.."
programs=$(cd "$1" && pwd)

skip() { echo "skipped the test of Slurm: $1"; exit 0; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
for program in slurmctld slurmd sbatch munged mungekey; do
    command -v $program >/dev/null || skip "there is no $program (apt-get install slurmctld slurmd slurm-client munge)"
done
[ "$(id -u)" = 0 ] || skip 'it needs root'

work=$(mktemp -d)
chmod 755 "$work"
export SLURM_CONF=$work/slurm.conf
stop() {
    for daemon in slurmd slurmctld munged; do
        [ ! -s "$work/$daemon.pid" ] || kill "$(cat "$work/$daemon.pid")" 2>/dev/null || true
    done
    sleep 1
    rm -rf "$work"
}
trap stop EXIT
mkdir "$work/state" "$work/spool"
socket=$work/munge.socket
mungekey --create --keyfile="$work/munge.key"
munged --force --key-file="$work/munge.key" --socket="$socket" --pid-file="$work/munged.pid" \
    --log-file="$work/munged.log" --seed-file="$work/munge.seed" >/dev/null 2>&1 || skip 'munged does not start'
host=$(hostname)
cores=$(nproc)
cat >"$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
slurmctld >/dev/null 2>&1 || skip 'slurmctld does not start'
slurmd >/dev/null 2>&1 || skip 'slurmd does not start'
for _ in $(seq 60); do
    sinfo --noheader --states=idle --format=%D 2>/dev/null | grep -q 1 && break
    sleep 0.5
done
sinfo --noheader --states=idle --format=%D 2>/dev/null | grep -q 1 || skip "the node is not ready: $(tail -n 2 "$work/slurmctld.log")"

checkout=$work/checkout
mkdir -p "$checkout/data/models"
cp -r Makefile pipelines "$checkout/"
cp -r data/haw-eng "$checkout/data/"
cp -r data/models/demo "$checkout/data/models/"
cp tests/fixtures/small.toml "$checkout/pipelines/"
cat >"$checkout/pipelines/sweeps/four.toml" <<'TOML'
pipeline = "small"

[settings]
"evaluate.generated_rows" = 0

[vary.train]
rank = [1, 2]
learning_rate = ["1e-3", "2e-3"]
TOML
cd "$checkout"
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL
sweep() { make --no-print-directory sweep SWEEP=four BIN="$programs" DATA=data/haw-eng "$@"; }
artifacts() { find artifacts -mindepth 2 -maxdepth 2 -not -path '*/.*' | sort; }

sweep SLURM=four.sh JOBS=2
! command -v shellcheck >/dev/null || shellcheck four.sh
sbatch --wait four.sh || fail "a task failed: $(tail -n 5 build/sweeps/four/slurm-*.log)"
[ "$(find artifacts/report -mindepth 1 -maxdepth 1 | wc -l)" = 4 ] || fail "not every task made a report: $(artifacts)"
artifacts >"$work/before"
sweep
artifacts | diff "$work/before" - || fail 'the sweep ran something after Slurm had run it'
echo 'Slurm made the four runs of the sweep, and the sweep found them'
