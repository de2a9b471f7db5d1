# Sourced first by the scripts of guest/, tests/ and .ci/: their error handling and their
# folders.
# shellcheck shell=bash

# A script must not fail silently: a command that fails unexpectedly is reported with its script
# and line, also in functions, subshells and command substitutions (-E, inherit_errexit).
# Failures that the caller handles, by `||` or `if`, are not reported.
set -Eeuo pipefail
shopt -s inherit_errexit
# broken CODES FILE LINE COMMAND: reports a failure; for a pipe, the codes of all its commands
# and the last command.
broken() { printf '%s: error: line %s ended with %s: %s\n' "${2##*/}" "$3" "$1" "${4%%$'\n'*}" >&2; }
trap 'broken "${PIPESTATUS[*]}" "${BASH_SOURCE[0]:-$0}" "$LINENO" "$BASH_COMMAND"' ERR

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "error: $*"; exit 1; }

# The folder of kernels and tools, kept between builds and checkouts; absolute, since scripts
# change their folder.
if [ -z "${RUST_KATA_CACHE:-}" ]; then
    [ -n "${XDG_CACHE_HOME:-}${HOME:-}" ] || die "no folder for kernels and tools: set HOME or RUST_KATA_CACHE"
    RUST_KATA_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/rust-kata
fi
[[ $RUST_KATA_CACHE = /* ]] || RUST_KATA_CACHE=$PWD/$RUST_KATA_CACHE
export RUST_KATA_CACHE

# As root, apt's own download user cannot write into a private cache; apt would print a warning,
# so root downloads.
apt_get() { apt-get -q -o APT::Sandbox::User=root "$@" >&2; }

# candidate PACKAGE: prints the version that apt would install; nothing if apt does not know the
# package.
candidate() { { LC_ALL=C apt-cache policy "$1" 2> /dev/null || true; } | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'; }

# known PACKAGE…: prints the first of these packages that apt knows; nothing if it knows none of
# them.
known() {
    local package
    for package in "$@"; do
        [ -z "$(candidate "$package")" ] || { echo "$package"; return; }
    done
}

# newest GLOB: prints the newest kernel in the cache with such a name; nothing if there is none.
newest() {
    [ ! -d "$RUST_KATA_CACHE/kernels" ] ||
        find "$RUST_KATA_CACHE/kernels" -maxdepth 1 -type d -name "$1" -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-
}
