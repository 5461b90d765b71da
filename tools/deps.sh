#!/bin/sh
#
# deps.sh build|mpi|demo|test: installs the Debian packages that this part of
# the Makefile needs, those of them that are not there yet.

set -eu

build="gcc make pkg-config libc6-dev libjansson-dev libpcre2-dev libssl-dev
       libutf8proc-dev nginx nginx-dev"
mpi="$build libopenmpi-dev openmpi-bin"
demo="$build curl jq ca-certificates procps"
test="$demo $mpi iproute2 g++ clang llvm libclang-rt-14-dev libcmocka-dev
      libsimde-dev valgrind patchelf perl libwww-perl libtest-base-perl
      libtext-diff-perl liblist-moreutils-perl libipc-run-perl
      libio-socket-ssl-perl libtest-longstring-perl npm python3 python3-pip
      xz-utils"

case "${1:-}" in
build) want=$build ;;
mpi)   want=$mpi ;;
demo)  want=$demo ;;
test)  want=$test ;;
*)     echo "usage: deps.sh build|mpi|demo|test" >&2; exit 2 ;;
esac

# npm and pip may have come in other ways
command -v npm >/dev/null && want=$(echo "$want" | sed 's/ npm / /')
python3 -m pip --version >/dev/null 2>&1 \
    && want=$(echo "$want" | sed 's/ python3-pip / /')

missing=
for p in $want; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null \
        | grep -q 'install ok installed' || missing="$missing $p"
done

[ -n "$missing" ] || exit 0

echo "installing:$missing"

sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
        echo "deps.sh: run as root, or install:$missing" >&2
        exit 1
    }
    sudo=sudo
fi

# RUNLEVEL: do not start the distribution's own nginx on port 80
export DEBIAN_FRONTEND=noninteractive

$sudo apt-get -qq update
$sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get -qq -y --no-install-recommends install $missing
