# Sourced by the scripts of this folder.
# shellcheck shell=bash

# Where kernels and tools are kept between builds and checkouts.
RUST_KATA_CACHE=${RUST_KATA_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/rust-kata}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "error: $*"; exit 1; }

# As root, apt's own download user cannot write into a private cache; it only warns, so tell it not to try.
apt_get() { apt-get -q -o APT::Sandbox::User=root "$@" >&2; }

# candidate PACKAGE: the version apt would install, empty when apt knows none.
candidate() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'; }
