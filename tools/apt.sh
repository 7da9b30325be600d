#!/bin/sh
# Installs those of the named Debian packages that are missing. Where it may not, it prints the one command to run and
# goes on: all but Open3D works without its libraries.
set -eu
[ "$(uname)" = Linux ] || exit 0

missing=
for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

install="apt-get install -y --no-install-recommends$missing"
if ! command -v apt-get >/dev/null; then
    echo "These Debian packages, by your system's own names, are needed but not found:$missing"
elif [ "$(id -u)" != 0 ]; then
    echo "System libraries are missing. Please run:  sudo $install"
else
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -q && $install; } </dev/null || echo "System libraries could not be installed. Please run:  $install"
fi
