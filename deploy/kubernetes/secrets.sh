#!/bin/sh
# Makes the secrets that base/kustomization.yaml reads, once: API keys, of which the doors get the hashes, the database's
# password, and what the doors share.
#
#   PONDER="docker run --rm ponder:door" sh deploy/kubernetes/secrets.sh      # left out: the command ponder
set -eu
folder=${1:-$(dirname "$0")/base/secrets}
ponder=${PONDER:-ponder}
if [ -e "$folder/door.env" ]; then exit 0; fi
umask 077
mkdir -p "$folder"
rm -f "$folder"/*.new "$folder"/*.key "$folder"/*.password

word() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

key() { # NAME SCOPES: its table as JSON, on standard output; the key, into a file
    made=$($ponder keys new "$1" --scopes "$2")
    printf '%s\n' "$made" | sed -n '1p' | tr -d '\n' >"$folder/$1.key"
    printf '%s\n' "$made" | sed -n 's/^\([a-z]*\) = \(.*\)$/"\1": \2/p' | paste -sd, | sed 's/.*/{&}/' | tr -d '\n'
}

password=$(word)
printf %s "$password" >"$folder/postgres.password"
openssl genpkey -algorithm ed25519 -out "$folder/receipts.key" 2>/dev/null

{
    printf 'PONDER_LEDGER__URL=postgresql://ponder:%s@postgres/ponder\n' "$password"
    printf 'PONDER_IDEMPOTENCY__SECRET=%s\n' "$(word)"
    printf 'PONDER_SEALED_THOUGHTS__SECRETS=["%s"]\n' "$(word)"
    printf 'PONDER_KEYS=[%s,%s]\n' "$(key scrape metrics)" "$(key me infer,usage,admin)"
} >"$folder/door.env.new"
mv "$folder/door.env.new" "$folder/door.env"
