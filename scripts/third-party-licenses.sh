#!/usr/bin/env bash
# Prints the licences of everything that is compiled into the program: each dependency with its licence files, equal texts
# only once.
#
#   scripts/third-party-licenses.sh [FEATURES]
#
# Needs the dependencies' sources, which a build downloads.
set -euo pipefail
cd "$(dirname "$0")/.."

registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
declare -A first

# Prints a text, or where it was already printed.
text() {
    local sum
    sum=$(sha256sum < "$1" | cut -d ' ' -f 1)
    if [ -n "${first[$sum]:-}" ]; then
        printf '\n[%s: the same text as with %s]\n' "${1##*/}" "${first[$sum]}"
    else
        first[$sum]=$2
        printf '\n[%s]\n\n' "${1##*/}"
        cat "$1"
    fi
}

title() { printf '\n%s\n%s\n' "${1//?/=}" "$1"; }

echo "Candor is licensed under MIT or Apache-2.0. The software compiled into it or shipped with it has these licences."
cargo tree --locked --edges normal --features "${1:-}" --prefix none --format '{p}|{l}' |
    sed -E 's/ \(proc-macro\)//; s/ \(\*\)//' | sort -u |
    while IFS='|' read -r package license; do
        read -r name version _ <<< "$package"
        version=${version#v}
        # Candor itself has no folder there.
        for folder in "$registry"/*/"$name-$version"; do
            [ -d "$folder" ] || continue
            title "$name $version: ${license:-see below}"
            while read -r file; do text "$file" "$name $version"; done < <(
                find "$folder" "$folder/llama.cpp" -maxdepth 1 -type f -iregex \
                    '.*/\(\(un\)?licen[cs]e\|copying\|copyright\|notice\)[^/]*' 2> /dev/null | sort
            )
            break
        done
    done
# Third-party code of the page at `/`.
for folder in src/playground/page/vendor/*/; do
    name=$(sed -n '1s/^# //p' "$folder/README.md")
    title "$name: see below"
    text "$folder/LICENSE" "$name"
done
# Rust has the notices of its standard library, and of its dependencies, in an HTML page.
page=$(rustc --print sysroot)/share/doc/rust/COPYRIGHT-library.html
if [ -f "$page" ]; then
    title "$(rustc --version | cut -d ' ' -f 1,2): the standard library"
    sed -E 's/<[^>]*>//g; s/&lt;|&#60;/</g; s/&gt;|&#62;/>/g; s/&quot;|&#34;/"/g; s/&#39;|&#x27;/'"'"'/g; s/&amp;|&#38;/\&/g' \
        "$page" | cat -s
fi
# Debian keeps the licence of the compiler's libraries with each of them.
for library in libgomp1 libstdc++6 libgcc-s1; do
    file=/usr/share/doc/$library/copyright
    if [ -f "$file" ]; then
        title "$library: GPL-3.0 with the GCC Runtime Library Exception"
        text "$file" "$library"
    fi
done
