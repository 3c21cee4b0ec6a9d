#!/usr/bin/env bash
# Makes a site of the documentation: scripts/docs.sh MDBOOK DIRECTORY. The site is DIRECTORY/book/index.html.
#
# The pages link to each other and to files beside docs/, as they do on GitHub. So that these links lead somewhere on the
# site too, mdBook is given a copy of what is linked, in the same folders.
set -euo pipefail

mdbook=$1
site=$2
cd "$(dirname "$0")/.."

rm -rf "$site"
mkdir -p "$site/pages/src"
cp docs/book.toml "$site/"

cp README.md CONTRIBUTING.md CHANGELOG.md "$site/pages/"
cp src/lib.rs "$site/pages/src/"
cp -r docs examples "$site/pages/"
# Without what begins with a dot: config/.env is somebody's own.
mkdir "$site/pages/config" && cp config/* "$site/pages/config/"
rm "$site/pages/docs/book.toml"
# What is README.md in a folder, mdBook makes its index.html; it does not say so to links.
find "$site/pages" -name '*.md' -exec sed -i -E 's#(\]\([^):]*)README\.md#\1index.md#g' {} +
# The list of pages stands in docs/, and its links are relative to that.
sed -E 's#\]\(([^)]*)\)#](docs/\1)#; s#\]\(docs/\.\./#](#' docs/SUMMARY.md > "$site/pages/SUMMARY.md"
rm "$site/pages/docs/SUMMARY.md"

"$mdbook" build "$site"
