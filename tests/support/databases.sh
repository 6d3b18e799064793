#!/usr/bin/env bash
# Starts a PostgreSQL and a MariaDB of its own on free loopback ports, as an unprivileged user, runs
# a command with their addresses in the environment, and stops them again:
#   tests/support/databases.sh [--replicated] COMMAND…
# With --replicated a cluster of three MariaDB nodes (Galera) is started too.
# STANBY_TEST_POSTGRES: key=value pairs without a database; STANBY_TEST_MYSQL: a Go DSN up to the
# slash. With _PID_FILE behind it: whose first line is the server's process; with _START: the program
# that starts it again at the same place. A kind that is not installed is left away, and said so; with
# STANBY_TESTS_COMPLETE it is a failure. STANBY_TEST_CERTIFICATES: a folder with ca.pem, whose server
# certificates both servers use (for the name localhost), client.pem and client.key.
set -uo pipefail

dir=$(mktemp -d "${TMPDIR:-/tmp}/stanby-databases.XXXXXX")
pid_files=()
is_replicated=
[ "${1:-}" != --replicated ] || { is_replicated=yes; shift; }
# The servers refuse to run as root.
as_user=()
if [ "$(id -u)" -eq 0 ]; then
    chown nobody "$dir"
    chmod 755 "$dir"
    as_user=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi

# Whoever runs now: the command may have started them anew.
stop() {
    local file pid
    for file in "${pid_files[@]}"; do
        pid=$(head -n 1 "$file" 2>/dev/null) || continue
        # PostgreSQL ends without waiting for its sessions by SIGINT, MariaDB by SIGTERM.
        kill -INT "$pid" 2>/dev/null; kill -TERM "$pid" 2>/dev/null
        for _ in $(seq 300); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    done
    wait
    rm -rf "$dir"
}
trap stop EXIT

# Below those from which outgoing connections come, so that it is free for a second start.
free_port() {
    python3 - <<'END'
import random, socket
while True:
    port = random.randrange(12000, 32000)
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        continue
    print(port)
    break
END
}

# Tries a command for up to half a minute.
until_works() {
    local n
    for n in $(seq 300); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
    return 1
}

# Writes a program that runs a command in its own place.
program() {
    local path=$dir/$1
    shift
    { echo '#!/usr/bin/env bash'; printf 'exec'; printf ' %q' "$@"; echo; } >"$path"
    chmod 755 "$path"
}

# Authorities, and certificates of theirs for the servers (localhost alone) and for a client.
make_certificates() {
    local name names
    (
        cd "$dir" || exit 1
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=stanby test authority" \
            -keyout ca.key -out ca.pem
        for name in server client; do
            names=basicConstraints=CA:FALSE
            [ $name = client ] || names+=$'\nsubjectAltName=DNS:localhost'
            openssl req -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout $name.key -out $name.csr &&
                openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                    -extfile <(echo "$names") -out $name.pem
        done
        chmod 644 ./*.pem && chmod 600 ./*.key
        [ "$(id -u)" -ne 0 ] || chown nobody server.key
    ) >"$dir/openssl.log" 2>&1 || { cat "$dir/openssl.log"; return 1; }
    export STANBY_TEST_CERTIFICATES=$dir
}

# A kind that is not there is a failure where everything has to run.
is_missing() {
    echo "databases: $1 is not installed"
    [ -z "${STANBY_TESTS_COMPLETE:-}" ]
}

start_postgres() {
    local bin port
    bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)
    [ -x "$bin/postgres" ] || { is_missing PostgreSQL; return; }
    port=$(free_port)
    "${as_user[@]}" "$bin/initdb" -D "$dir/postgres" -U stanby -A trust -E UTF8 --no-sync \
        >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log"; return 1; }
    # Who is in this group has to know the password.
    sed -i -e '1i host all +asks_password 127.0.0.1/32 scram-sha-256' \
        -e '1i hostssl all +asks_certificate 127.0.0.1/32 trust clientcert=verify-ca' \
        "$dir/postgres/pg_hba.conf"
    # After a kill it syncs every file of every database one by one, unless it is told not to.
    program start-postgres "${as_user[@]}" "$bin/postgres" -D "$dir/postgres" -p "$port" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300 \
        -c recovery_init_sync_method=syncfs -c ssl=on -c ssl_cert_file="$dir/server.pem" \
        -c ssl_key_file="$dir/server.key" -c ssl_ca_file="$dir/ca.pem" ${POSTGRES_OPTIONS:-}
    "$dir/start-postgres" >"$dir/postgres.log" 2>&1 &
    pid_files+=("$dir/postgres/postmaster.pid")
    until_works "$bin/pg_isready" -h 127.0.0.1 -p "$port" || { cat "$dir/postgres.log"; return 1; }
    export STANBY_TEST_POSTGRES="host=127.0.0.1 port=$port user=stanby sslmode=disable"
    export STANBY_TEST_POSTGRES_PID_FILE="$dir/postgres/postmaster.pid"
    export STANBY_TEST_POSTGRES_START="$dir/start-postgres"
}

start_mysql() {
    local port server
    server=$(command -v mariadbd || ls /usr/sbin/mariadbd 2>/dev/null)
    [ -n "$server" ] || { is_missing MariaDB; return; }
    port=$(free_port)
    "${as_user[@]}" mariadb-install-db --no-defaults --datadir="$dir/mariadb" \
        --auth-root-authentication-method=normal --skip-test-db \
        >"$dir/install.log" 2>&1 || { cat "$dir/install.log"; return 1; }
    # Whoever starts it again may have a TMPDIR that is not for this user.
    program start-mariadb "${as_user[@]}" "$server" --no-defaults --datadir="$dir/mariadb" --tmpdir="$dir" \
        --port="$port" --bind-address=127.0.0.1 --socket="$dir/mariadb.sock" \
        --pid-file="$dir/mariadb.pid" --max-connections=300 --ssl-ca="$dir/ca.pem" \
        --ssl-cert="$dir/server.pem" --ssl-key="$dir/server.key" ${MARIADB_OPTIONS:-}
    "$dir/start-mariadb" >"$dir/mariadb.log" 2>&1 &
    pid_files+=("$dir/mariadb.pid")
    until_works mariadb-admin --no-defaults -h 127.0.0.1 -P "$port" -u root ping \
        || { cat "$dir/mariadb.log"; return 1; }
    export STANBY_TEST_MYSQL="root@tcp(127.0.0.1:$port)"
    export STANBY_TEST_MYSQL_PID_FILE="$dir/mariadb.pid"
    export STANBY_TEST_MYSQL_START="$dir/start-mariadb"
}

# Three nodes on this machine; a node that comes back gets what it lacks from another one, as it does
# where a unit file starts it. STANBY_TEST_GALERA: their ports with commas; _DIR behind it: where each
# has its start-galera-PORT and galera-PORT.pid.
start_galera() {
    local provider=/usr/lib/galera/libgalera_smm.so ports=() groups=() index all first
    [ -e "$provider" ] && command -v mariadbd >/dev/null || { is_missing Galera; return; }
    for index in 0 1 2; do ports+=("$(free_port)"); groups+=("$(free_port)"); done
    all=gcomm://$(printf '127.0.0.1:%s,' "${groups[@]}")
    "${as_user[@]}" mariadb-install-db --no-defaults --datadir="$dir/galera-${ports[0]}" \
        --auth-root-authentication-method=normal --skip-test-db \
        >"$dir/install-galera.log" 2>&1 || { cat "$dir/install-galera.log"; return 1; }
    for index in 1 2; do cp -a "$dir/galera-${ports[0]}" "$dir/galera-${ports[index]}"; done
    for index in 0 1 2; do
        first=
        galera_node "${ports[index]}" "${groups[index]}" "${all%,}" "$provider"
        [ "$index" -ne 0 ] || first=--wsrep-new-cluster
        "$dir/start-galera-${ports[index]}" $first >>"$dir/galera-${ports[index]}.log" 2>&1 &
        pid_files+=("$dir/galera-${ports[index]}.pid")
        until_works galera_is_ready "${ports[index]}" || { cat "$dir/galera-${ports[index]}.log"; return 1; }
    done
    STANBY_TEST_GALERA=$(IFS=,; echo "${ports[*]}")
    export STANBY_TEST_GALERA
    export STANBY_TEST_GALERA_DIR="$dir"
}

galera_is_ready() {
    mariadb --no-defaults -N -h 127.0.0.1 -P "$1" -u root -e "SHOW STATUS LIKE 'wsrep_ready'" | grep -q ON
}

# Writes the program that starts a node: port, port of the group, all of the group, provider.
galera_node() {
    local data=$dir/galera-$1 path=$dir/start-galera-$1 server
    server=("${as_user[@]}" "$(command -v mariadbd)" --no-defaults --datadir="$data"
        --port="$1" --bind-address=127.0.0.1 --socket="$data.sock" --pid-file="$data.pid"
        --max-connections=300 --binlog-format=ROW --default-storage-engine=InnoDB
        --innodb-autoinc-lock-mode=2 --innodb-buffer-pool-size=64M --wsrep-on=ON
        --wsrep-provider="$4" --wsrep-cluster-name="stanby-$$" --wsrep-cluster-address="$3"
        --wsrep-node-name="node-$1" --wsrep-node-address=127.0.0.1:"$2" --wsrep-sst-method=rsync
        --wsrep-sst-receive-address=127.0.0.1:"$(free_port)"
        "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:$2;ist.recv_addr=127.0.0.1:$(free_port);gcache.size=32M;evs.keepalive_period=PT0.4S;evs.suspect_timeout=PT2S;evs.inactive_timeout=PT4S;evs.inactive_check_period=PT0.5S")
    {
        echo '#!/usr/bin/env bash'
        # Where a node that was killed stands only its log of InnoDB says.
        printf 'log=%q\n' "$data.recovery"
        echo 'rm -f "$log"'
        printf '%q ' "${server[@]}"
        echo '--wsrep-recover --log-error="$log"'
        echo 'position=$(sed -n "s/.*WSREP: Recovered position:* *//p" "$log" | tail -n 1)'
        printf 'exec'
        printf ' %q' "${server[@]}"
        echo ' ${position:+--wsrep-start-position="$position"} "$@"'
    } >"$path"
    chmod 755 "$path"
}

make_certificates && start_postgres && start_mysql &&
    { [ -z "$is_replicated" ] || start_galera; } || { echo "databases: cannot be started"; exit 1; }
"$@"
