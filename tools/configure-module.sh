#!/bin/bash
#
# configure-module.sh SRC DIR [OPTION...]: copy nginx's source tree, or the
# headers of a distribution's nginx-dev, from SRC to DIR and configure the
# module there as a dynamic one, with the flags that its nginx was built with.

set -eu

src=$1 dir=$2
shift 2
top=$(cd "$(dirname "$0")/.." && pwd)

mkdir -p "$dir"
cp -r "$src"/. "$dir"
cd "$dir"

NGX_CONF_FLAGS=(--with-compat)
[ ! -r conf_flags ] || . ./conf_flags

configure=configure
[ -e configure ] || configure=auto/configure

bash "$configure" "${NGX_CONF_FLAGS[@]}" "$@" \
    --add-dynamic-module="$top" --builddir="$PWD/objs" >configure.log 2>&1 \
    || { cat configure.log; exit 1; }
