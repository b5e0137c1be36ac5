#!/bin/sh
# Makes what the parts of compose.yaml share, the first time they start: the server's configuration, in which keys are
# hashes, the key by which Prometheus reads the metrics, one for whoever runs all this, and the database's password.
#
#   sh deploy/setup.sh FOLDER
set -eu
folder=$1
if [ -e "$folder/ponder.toml" ]; then exit 0; fi
umask 077
rm -f "$folder"/*.new "$folder"/*.key "$folder"/*.password

# Everybody may enter the folder; each file is for one of those who do.
chmod 755 "$folder"
password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
printf %s "$password" >"$folder/postgres.password"

key() { # NAME SCOPES: its table, on standard output; the key, into a file
    made=$(ponder keys new "$1" --scopes "$2")
    printf '%s\n' "$made" | sed -n '1p' | tr -d '\n' >"$folder/$1.key"
    printf '%s\n' "$made" | sed -n '/^\[\[keys\]\]/,$p'
}

{
    printf '# Made once by setup.sh. What may stand here: ponder.example.toml.\n'
    printf 'host = "0.0.0.0"\n\n'
    printf '[ledger]\nurl = "postgresql://ponder:%s@postgres/ponder"\n\n' "$password"
    key scrape metrics
    printf '\n'
    key me infer,usage,trace,admin
} >"$folder/ponder.toml.new"

if [ "$(id -u)" = 0 ]; then # The users of the images: ponder, prometheus (nobody), postgres.
    chown 10001 "$folder/ponder.toml.new" "$folder/me.key"
    chown 65534 "$folder/scrape.key"
    chown 999 "$folder/postgres.password"
fi
mv "$folder/ponder.toml.new" "$folder/ponder.toml"
