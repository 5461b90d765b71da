#!/bin/bash
#
# unpack-suite.sh DIR SUITE: unpacks what the tests need of another Debian
# suite under DIR/SUITE, next to the system and without touching it.
#
#   trixie, sid   nginx, its headers and its libraries: DIR/SUITE/nginx is a
#                 program that runs here, DIR/SUITE/src what modules are built
#                 against
#   source        nginx as its authors publish it, of the version that this
#                 Debian has: DIR/source/src
#   perl          Test::Nginx, for PERL5LIB: DIR/perl/lib
#   curl          a curl that speaks HTTP/3: DIR/curl/curl
#
# The archive's address is taken from the machine's own apt configuration.
# What was unpacked before is not fetched again.  Exit code 3: it cannot be
# had here.

set -eu

[ $# = 2 ] || { echo "usage: unpack-suite.sh DIR SUITE" >&2; exit 2; }

mkdir -p "$1"
dir=$(cd "$1" && pwd)/$2 want=$2 suite=$2 types=deb

case "$want" in
perl|curl) suite=sid ;;
source)    suite=$(. /etc/os-release && echo "$VERSION_CODENAME") types=deb-src
esac

[ ! -e "$dir/ok" ] || exit 0

cannot() {
    echo "unpack-suite: $want: $1" >&2
    exit 3
}

command -v patchelf >/dev/null || cannot "patchelf is not installed"

rm -rf "$dir"
mkdir -p "$dir"/{lists/partial,cache/archives/partial,deb,root}


# the first archive of this machine's sources; either format of them

archive() {
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null \
        | awk '/^URIs:/ { print $2; exit }'
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null \
        | awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//)
               { print $i; exit } }'
}

uri=$(archive | head -n 1)
[ -n "$uri" ] || cannot "apt has no sources here"

cat >"$dir/suite.sources" <<END
Types: $types
URIs: $uri
Suites: $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END

apt() {
    apt-get -qq -o Dir::Etc::SourceList=/dev/null \
        -o Dir::Etc::SourceParts="$dir" -o Dir::Etc::Preferences=/dev/null \
        -o Dir::Etc::PreferencesParts=/dev/null \
        -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

case "$want" in
perl) packages=libtest-nginx-perl ;;
curl) packages="curl libcurl4t64 libnghttp3-9 libngtcp2-16
                libngtcp2-crypto-ossl0 libnghttp2-14 libssl3t64 libc6 zlib1g
                libzstd1 libbrotli1 libidn2-0 libunistring5 libpsl5t64
                libssh2-1t64 libldap2 libsasl2-2 libgssapi-krb5-2 libkrb5-3
                libk5crypto3 libkrb5support0 libkeyutils1 libcom-err2" ;;
*)    packages="nginx nginx-common nginx-dev libc6 libcrypt1 libpcre2-8-0
                libssl3t64 zlib1g libzstd1" ;;
esac

apt update || cannot "the archive does not answer"
cd "$dir/deb"

if [ "$want" = source ]; then
    apt source --download-only --tar-only nginx \
        || cannot "the source cannot be fetched"
    mkdir "$dir/src"
    tar -xf nginx_*.orig.tar.* -C "$dir/src" --strip-components 1
    rm -rf "$dir"/{lists,cache,deb}
    touch "$dir/ok"
    exit 0
fi

apt download $packages || cannot "the packages cannot be fetched"

for deb in *.deb; do
    dpkg-deb -x "$deb" "$dir/root"
done

if [ "$want" = perl ]; then
    ln -s root/usr/share/perl5 "$dir/lib"
    perl -I"$dir/lib" -MTest::Nginx::Socket -e 1 </dev/null \
        || cannot "Test::Nginx does not load"

else
    lib=$dir/root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)
    program=nginx
    [ "$want" != curl ] || program=curl

    cp "$dir"/root/usr/*bin/$program "$dir/$program"
    patchelf --set-interpreter "$lib"/ld-linux-*.so.2 --set-rpath "$lib" \
        --force-rpath "$dir/$program"
    "$dir/$program" -V >/dev/null 2>&1 \
        || cannot "its $program does not run here"
    [ "$want" = curl ] || ln -s root/usr/share/nginx/src "$dir/src"
fi

rm -rf "$dir"/{lists,cache,deb}
touch "$dir/ok"
