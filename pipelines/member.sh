#!/bin/sh
# Runs a command until it ends, or until stdin is closed. usage: member.sh COMMAND ARGUMENT…
#
# A closed stdin means that the caller has ended, in whatever way: then all processes of this process group get SIGTERM, so
# that stages save a resume state. The caller must start this script in a new process group.
set -u
exec 3<&0 </dev/null
{ cat <&3; kill -TERM 0; } >/dev/null 2>&1 &
trap : TERM
"$@" 3<&-
