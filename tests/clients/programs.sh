#!/usr/bin/env bash
# Builds the Go and the Node client programs and runs a command that finds them in its environment:
#   tests/clients/programs.sh COMMAND…
# STANBY_GO_CLIENTS and STANBY_NODE_CLIENTS: the words that start each; `tests/group_report.rs` loads servers
# with them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${CARGO_TARGET_DIR:-$here/../../target}/clients
mkdir -p "$work"
work=$(cd "$work" && pwd)
. "$here/build.sh"
build_go
build_node
export STANBY_GO_CLIENTS="$work/go-clients"
export STANBY_NODE_CLIENTS="node $here/node/main.js"
exec "$@"
