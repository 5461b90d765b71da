#!/bin/sh
#
# gpu_pack.sh: gathers in build/gpu-deps what tools/gpu_check.sh needs on a
# machine that has CUDA and a C compiler but none of our libraries and no
# network: headers and static libraries of jansson, PCRE2, utf8proc and OpenSSL's
# libcrypto, cmocka's shared one, and make.  Run it where those are installed
# (make deps-test), then take the tree and that folder along: some 13 MB.

set -eu

cd "$(dirname "$0")/.."

to=build/gpu-deps
inc=/usr/include
arch=$(${CC:-cc} -dumpmachine)
lib=/usr/lib/$arch

rm -rf "$to"
mkdir -p "$to/include" "$to/lib"

for l in libjansson.a libpcre2-8.a libutf8proc.a libcrypto.a; do
    [ -e "$lib/$l" ] || {
        echo "gpu_pack.sh: no $lib/$l: make deps-test" >&2
        exit 1
    }
    cp "$lib/$l" "$to/lib/"
done

cp -L "$lib/libcmocka.so.0" "$to/lib/libcmocka.so.0"
cp "$to/lib/libcmocka.so.0" "$to/lib/libcmocka.so"

for h in jansson.h jansson_config.h pcre2.h utf8proc.h cmocka.h \
         cmocka_version.h; do
    for d in "$inc" "$inc/$arch"; do
        if [ -e "$d/$h" ]; then
            cp "$d/$h" "$to/include/"
        fi
    done
done

cp -r "$inc/openssl" "$to/include/"
cp -r "$inc/$arch/openssl/." "$to/include/openssl/"

mkdir "$to/bin"
cp -L "$(command -v make)" "$to/bin/"

du -sh "$to"
