#!/bin/sh
# Publishes files of changes as they arrive, in the order of their names: apply-changes.sh CHANGES ARTIFACTS
#
# A file comes whole into CHANGES, by a rename, as *.jsonl, *.jsonl.gz, *.csv, *.tsv or *.parquet. It goes to applied/
# once it is published, or, where it is at fault, to refused/ with the reason beside it; the products then stay as they
# were. Where anything else is at fault, this ends with status 1, and goes on with the same file when it is started
# again. What an update says to merge is merged; where it says so instead of publishing, the file is applied after that,
# before the next one. ONCE=1 looks for files once, as a cron job does. QUERIES=FILE has the users that the base was
# built with, and that merges are measured with.
set -u
changes=$1 artifacts=$2
mkdir -p "$changes/applied" "$changes/refused" || exit 1
trap 'exit 0' TERM

current() {
  cat "$artifacts/$(cat "$artifacts/CURRENT")/manifest.json"
}

# Whether an earlier run has published a file, and ended before it could move it. A merge keeps the sum of the last one.
is_published() {
  sum=$(sha256sum < "$1")
  current | grep -q "\"sha256\": \"${sum%% *}\""
}

merge() {
  python -m index_builder --merge --out "$artifacts" --keep 10 ${QUERIES:+--queries "$QUERIES"}
}

refuse() {
  printf '%s\n' "$said" > "$changes/refused/${1##*/}.txt" && mv "$1" "$changes/refused/"
}

apply() {
  if is_published "$1"; then
    mv "$1" "$changes/applied/"
    return
  fi
  said=$(python -m index_builder --update "$1" --out "$artifacts" --keep 10 2>&1)
  case $?,$said in
    0,*"merge       due"*) mv "$1" "$changes/applied/" && merge ;;
    0,*) mv "$1" "$changes/applied/" ;;
    *"merge first"*)
      if current | grep -q '"delta": {'; then
        printf '%s\n' "$said"
        merge && apply "$1"
        return
      fi
      refuse "$1"
      ;;
    1,"error: $1: "*) refuse "$1" ;;
    *) false ;;
  esac
  status=$?
  printf '%s\n' "$said"
  return $status
}

while :; do
  for file in "$changes"/*.jsonl "$changes"/*.jsonl.gz "$changes"/*.csv "$changes"/*.tsv "$changes"/*.parquet; do
    echo "$file"
  done | LC_ALL=C sort | while read -r file; do
    [ ! -e "$file" ] || apply "$file" || exit 1
  done || exit 1
  [ -z "${ONCE:-}" ] || exit 0
  sleep 0.2
done
