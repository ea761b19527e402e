#!/bin/sh
# Installs the Debian packages of tools/packages.txt that are missing.
#
#   tools/setup.sh [build|test]      build (default): what building and running need; test: also what the tests need
#
# Says what it installs and why it asks for root; does nothing, without root, when everything is there.
# On other systems it prints the list and leaves the rest to you.
set -eu
want=${1:-build}
case $want in
build | test) ;;
*)
    echo "usage: tools/setup.sh [build|test]" >&2
    exit 2
    ;;
esac
list=$(dirname "$0")/packages.txt

# shellcheck disable=SC2016
wanted=$(awk -v want="$want" '!/^#/ && NF && (want == "test" || $2 != "test") { print $1 }' "$list")

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "setup: this is no Debian system; Hadal needs the like of these packages:"
    echo "$wanted" | sed 's/^/    /'
    exit 0
fi

missing=
for p in $wanted; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null 2>&1; then
        as_root=sudo
    else
        echo "setup: these packages are missing and installing them needs root:$missing" >&2
        echo "setup: as root, run: apt-get install$missing" >&2
        exit 1
    fi
fi
echo "setup: installing Debian packages:$missing"
[ -z "$as_root" ] || echo "setup: this needs root; sudo may ask for your password"
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends $missing >/dev/null
