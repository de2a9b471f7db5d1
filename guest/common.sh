# Sourced, first of all, by the scripts of guest/, tests/ and .ci/: how they fail, and where they keep things.
# shellcheck shell=bash

# A script that ends without a word is a defect: a command that fails unexpectedly is named, with its script and line, in
# functions, subshells and command substitutions, too (-E, inherit_errexit). What a caller catches, by `||` or `if`, is not.
set -Eeuo pipefail
shopt -s inherit_errexit
# broken CODES FILE LINE COMMAND: of a pipe, the codes of all and the last command.
broken() { printf '%s: error: line %s ended with %s: %s\n' "${2##*/}" "$3" "$1" "${4%%$'\n'*}" >&2; }
trap 'broken "${PIPESTATUS[*]}" "${BASH_SOURCE[0]:-$0}" "$LINENO" "$BASH_COMMAND"' ERR

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Where kernels and tools are kept between builds and checkouts; absolute, as scripts change their folder.
if [ -z "${RUST_KATA_CACHE:-}" ]; then
    [ -n "${XDG_CACHE_HOME:-}${HOME:-}" ] || die "no folder for kernels and tools: set HOME or RUST_KATA_CACHE"
    RUST_KATA_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/rust-kata
fi
[[ $RUST_KATA_CACHE = /* ]] || RUST_KATA_CACHE=$PWD/$RUST_KATA_CACHE
export RUST_KATA_CACHE

# As root, apt's own download user cannot write into a private cache; it only warns, so tell it not to try.
apt_get() { apt-get -q -o APT::Sandbox::User=root "$@" >&2; }

# candidate PACKAGE: the version apt would install, empty when apt knows none.
candidate() { { LC_ALL=C apt-cache policy "$1" 2> /dev/null || true; } | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'; }

# known PACKAGE…: the first of these packages that apt knows, empty when it knows none.
known() {
    local package
    for package in "$@"; do
        [ -z "$(candidate "$package")" ] || { echo "$package"; return; }
    done
}

# newest GLOB: of the kernels in the cache of this name, the one made last; nothing when there is none.
newest() {
    [ ! -d "$RUST_KATA_CACHE/kernels" ] ||
        find "$RUST_KATA_CACHE/kernels" -maxdepth 1 -type d -name "$1" -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-
}
