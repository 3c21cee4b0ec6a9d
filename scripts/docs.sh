#!/usr/bin/env bash
# Builds the documentation as a site: scripts/docs.sh MDBOOK DIRECTORY. The site is DIRECTORY/book/index.html.
#
# The pages link to each other and to files outside docs/, as on GitHub. To make these links work on the site too, mdBook
# gets a copy of everything that is linked, in the same folders.
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
# Without dot files: config/.env is private.
mkdir "$site/pages/config" && cp -r config/* "$site/pages/config/"
rm "$site/pages/docs/book.toml"
# mdBook turns a folder's README.md into index.html, but does not adapt links to it.
find "$site/pages" -name '*.md' -exec sed -i -E 's#(\]\([^):]*)README\.md#\1index.md#g' {} +
# The list of pages is in docs/, and its links are relative to that.
sed -E 's#\]\(([^)]*)\)#](docs/\1)#; s#\]\(docs/\.\./#](#' docs/SUMMARY.md > "$site/pages/SUMMARY.md"
rm "$site/pages/docs/SUMMARY.md"

"$mdbook" build "$site"
