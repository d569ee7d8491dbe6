#!/usr/bin/env bash
# Fetches chat templates that models really have into FOLDER/templates: tools/real/fetch_templates.sh FOLDER (default
# build/real). They come from PyPI, through pip: the source of llama-cpp-python (llama.cpp's collection) and the wheels of
# trl and axolotl. They belong to others, are looked at by `make test-real` alone, and never become part of tane.
#
# PIP=... and PYTHON=... as in fetch.sh. Exit code 3: PyPI or pip cannot be had; the last line says why.
set -u

folder=${1:-build/real}
packages=$folder/template-packages
templates=$folder/templates
pip=${PIP:-python3 -m pip}
python=${PYTHON:-python3}
done_mark=$templates/.complete-1

give_up() { # exit code, words
    echo "fetch_templates.sh: $2"
    rm -rf "$packages"
    exit "$1"
}

if [ -e "$done_mark" ]; then
    echo "have $templates: $(ls "$templates" | wc -l) chat templates"
    exit 0
fi
mkdir -p "$packages" "$templates" || give_up 3 "cannot make $templates"

# Fetches one archive, checks it, and unpacks its *.jinja under a path as PREFIX-NAME.jinja.
package() { # prefix name version sha256 wheel|source path
    local log=$packages/log binary archive
    binary=$([ "$5" = wheel ] && echo "--only-binary :all: --python-version 3.12" || echo "--no-binary $2")
    # shellcheck disable=SC2086
    $pip download -q --no-deps $binary --retries 1 -d "$packages" "$2==$3" >"$log" 2>&1 ||
        give_up 3 "$2 $3 cannot be fetched from PyPI: $(tail -n 1 "$log")"
    archive=$(ls "$packages"/*"$3"*)
    echo "$4  $archive" | sha256sum --check --quiet || give_up 1 "$2 $3 is not the file that was looked at"
    "$python" - "$1" "$archive" "$6" "$templates" <<'END' || give_up 1 "cannot unpack $archive"
import pathlib, sys, tarfile, zipfile
prefix, archive, under, out = sys.argv[1:]
if archive.endswith(".whl"):
    box = zipfile.ZipFile(archive)
    names, read = box.namelist(), box.read
else:
    box = tarfile.open(archive)
    names, read = box.getnames(), lambda name: box.extractfile(name).read()
names = [n for n in names if under in n and n.endswith(".jinja")]
for name in names:
    pathlib.Path(out, f"{prefix}-{name.rsplit('/', 1)[1]}").write_bytes(read(name))
print(f"{archive.rsplit('/', 1)[1]}: {len(names)} chat templates")
END
    rm -f "$archive"
}

package trl trl 1.16.0 c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396 wheel /chat_templates/
package axolotl axolotl 0.21.0 5db0468897d1f3a80fa2becc80dd4409f378ce887dcb2c98854dc70b38196391 wheel /chat_templates/
package llamacpp llama-cpp-python 0.3.36 832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e source \
    /models/templates/
rm -rf "$packages"
touch "$done_mark"
