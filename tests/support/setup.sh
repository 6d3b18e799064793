# To be sourced: installs what is missing on a Debian machine, as root or with sudo.

# The oldest Rust that builds this, as Cargo.toml says.
rust_needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../../Cargo.toml")

# Whether a command, a file (with its whole path) or a python3:module is there.
has() {
    case $1 in
        /*) [ -e "$1" ] ;;
        *:*) "${1%%:*}" -c "import ${1##*:}" 2>/dev/null ;;
        *) command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] ;;
    esac
}

# Runs apt-get as root, if need be with sudo; package lists are fetched once, before the first use.
apt() {
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "needs root or sudo to install packages" >&2; return 1; }
        root=(sudo)
    fi
    if [ -z "${apt_lists_are_new:-}" ]; then
        "${root[@]}" apt-get update -q || return 1
        apt_lists_are_new=yes
    fi
    # RUNLEVEL=1: packages do not start their services.
    "${root[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get "$@"
}

# Installs the Debian package of each "what package" whose command, file or python3 module is missing.
install_packages() {
    local missing=() entry
    for entry in "$@"; do
        has "${entry% *}" || missing+=("${entry#* }")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing: ${missing[*]}"
    command -v apt-get >/dev/null || { echo "no apt-get here: install them by hand"; return 1; }
    apt install -y -q --no-install-recommends "${missing[@]}"
}

# Whether version $1 is at least version $2.
is_at_least() {
    [ -n "$1" ] && [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# The version of the Rust that would be used; empty if there is none, or rustup has no toolchain.
rust_found() { rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p'; }

has_rust() { cargo --version >/dev/null 2>&1 && is_at_least "$(rust_found)" "$rust_needed"; }

# Installs the first of these families of Debian packages that is new enough; nothing is removed for it.
install_debian_rust() {
    command -v apt-get >/dev/null || return 1
    { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; } || return 1
    # The lists are fetched even where nothing fits: old lists do not know the newer packages.
    apt install -y -q >/dev/null || return 1
    local family compiler candidate
    for family in "rustc-web cargo-web rustfmt-web rust-web-clippy" "rustc cargo rustfmt rust-clippy"; do
        compiler=${family%% *}
        candidate=$(apt-cache policy "$compiler" | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p')
        is_at_least "$candidate" "$rust_needed" || continue
        echo "installing: $family"
        # The packages for style may be missing where the compiler is not.
        # shellcheck disable=SC2086
        apt install -y -q --no-install-recommends --no-remove $family \
            || apt install -y -q --no-install-recommends --no-remove $(cut -d' ' -f1-2 <<<"$family") \
            || continue
        hash -r
        has_rust && return 0
    done
    return 1
}

# Has rustup, which is there or can be had, fetch a toolchain of its own; the default stays as it is.
install_rustup_toolchain() {
    if ! command -v rustup >/dev/null; then
        curl --proto '=https' --tlsv1.2 -sSf --connect-timeout 20 https://sh.rustup.rs 2>/dev/null \
            | sh -s -- -y --no-modify-path --profile minimal -c rustfmt -c clippy 2>/dev/null
        hash -r
        has_rust
        return
    fi
    rustup toolchain install stable --profile minimal -c rustfmt -c clippy || return 1
    export RUSTUP_TOOLCHAIN=stable
    has_rust
}

# Puts a Rust that is new enough on the PATH: one that is there, Debian's, or rustup's.
install_rust() {
    local found
    export PATH=$PATH:$HOME/.cargo/bin
    has_rust && return 0
    found=$(rust_found)
    if command -v rustup >/dev/null; then
        install_rustup_toolchain || install_debian_rust
    else
        install_debian_rust || install_rustup_toolchain
    fi && return 0
    echo "Rust $rust_needed or newer is needed, and ${found:-none} was found: install rustc-web and" \
        "cargo-web (Debian 12), rustc and cargo (a Debian that has it new enough), or rustup from" \
        "https://rustup.rs, then run this again"
    return 1
}
