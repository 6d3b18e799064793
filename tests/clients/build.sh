# To be sourced: builds the programs of the Go and the Node client library below $work, each once at a
# time, since several steps of tests/run may ask for them at once; what is current stays as it is, so
# that nobody's libraries vanish while they run.
clients=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

build_go() {
    (flock 9 && cd "$clients/go" && go build -o "$work/go-clients.new" . \
        && mv "$work/go-clients.new" "$work/go-clients") 9>"$work/go.lock"
}

build_node() {
    (flock 9 && cd "$clients/node" || exit 1
        cmp -s package-lock.json node_modules/.stanby-lock.json && exit 0
        npm ci --silent --no-audit --no-fund && cp package-lock.json node_modules/.stanby-lock.json
    ) 9>"$work/node.lock"
}
