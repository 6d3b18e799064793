# To be sourced: installs what is missing on a Debian machine, as root or with sudo.

# Whether a command, a file (with its whole path) or a python3:module is there.
has() {
    case $1 in
        /*) [ -e "$1" ] ;;
        *:*) "${1%%:*}" -c "import ${1##*:}" 2>/dev/null ;;
        *) command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] ;;
    esac
}

# Installs the Debian package of each "what package" whose command, file or python3 module is missing.
install_packages() {
    local missing=() entry
    for entry in "$@"; do
        has "${entry% *}" || missing+=("${entry#* }")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing: ${missing[*]}"
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "needs root or sudo to install: ${missing[*]}"; return 1; }
        root=(sudo)
    fi
    # RUNLEVEL=1: packages do not start their services.
    "${root[@]}" apt-get update -q \
        && "${root[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -q --no-install-recommends "${missing[@]}"
}

# Installs Rust with what the tests need of it, and puts it on the PATH.
install_rust() {
    command -v cargo >/dev/null || export PATH=$HOME/.cargo/bin:$PATH
    if ! command -v cargo >/dev/null; then
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs \
            | sh -s -- -y --profile minimal -c rustfmt -c clippy || return 1
    fi
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return 0
    rustup component add rustfmt clippy
}
