#!/usr/bin/env bash
# Starts a PostgreSQL and a MariaDB of its own on free loopback ports, as an unprivileged user, runs
# a command with their addresses in the environment, and stops them again:
#   tests/support/databases.sh COMMAND…
# STANBY_TEST_POSTGRES: key=value pairs without a database; STANBY_TEST_MYSQL: a Go DSN up to the
# slash. A kind that is not installed is left away, and said so.
set -uo pipefail

dir=$(mktemp -d "${TMPDIR:-/tmp}/stanby-databases.XXXXXX")
pids=()
# The servers refuse to run as root.
as_user=()
if [ "$(id -u)" -eq 0 ]; then
    chown nobody "$dir"
    chmod 755 "$dir"
    as_user=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi

stop() {
    local pid
    for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null; kill -TERM "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    rm -rf "$dir"
}
trap stop EXIT

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Tries a command for up to half a minute.
until_works() {
    local n
    for n in $(seq 300); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
    return 1
}

start_postgres() {
    local bin port
    bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)
    [ -x "$bin/postgres" ] || { echo "databases: PostgreSQL is not installed"; return; }
    port=$(free_port)
    "${as_user[@]}" "$bin/initdb" -D "$dir/postgres" -U stanby -A trust -E UTF8 --no-sync \
        >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log"; return 1; }
    "${as_user[@]}" "$bin/postgres" -D "$dir/postgres" -p "$port" -c listen_addresses=127.0.0.1 \
        -c unix_socket_directories= -c max_connections=300 ${POSTGRES_OPTIONS:-} \
        >"$dir/postgres.log" 2>&1 &
    pids+=($!)
    until_works "$bin/pg_isready" -h 127.0.0.1 -p "$port" || { cat "$dir/postgres.log"; return 1; }
    export STANBY_TEST_POSTGRES="host=127.0.0.1 port=$port user=stanby sslmode=disable"
    export STANBY_TEST_POSTGRES_PID=${pids[-1]}
}

start_mysql() {
    local port server
    server=$(command -v mariadbd || ls /usr/sbin/mariadbd 2>/dev/null)
    [ -n "$server" ] || { echo "databases: MariaDB is not installed"; return; }
    port=$(free_port)
    "${as_user[@]}" mariadb-install-db --no-defaults --datadir="$dir/mariadb" \
        --auth-root-authentication-method=normal --skip-test-db \
        >"$dir/install.log" 2>&1 || { cat "$dir/install.log"; return 1; }
    "${as_user[@]}" "$server" --no-defaults --datadir="$dir/mariadb" --port="$port" \
        --bind-address=127.0.0.1 --socket="$dir/mariadb.sock" --max-connections=300 \
        ${MARIADB_OPTIONS:-} >"$dir/mariadb.log" 2>&1 &
    pids+=($!)
    until_works mariadb-admin --no-defaults -h 127.0.0.1 -P "$port" -u root ping \
        || { cat "$dir/mariadb.log"; return 1; }
    export STANBY_TEST_MYSQL="root@tcp(127.0.0.1:$port)"
    export STANBY_TEST_MYSQL_PID=${pids[-1]}
}

start_postgres && start_mysql || { echo "databases: cannot be started"; exit 1; }
"$@"
