#!/bin/bash
# On an empty PGDATA make the cluster, the user, POSTGRES_DB and what /docker-entrypoint-initdb.d
# holds, as the image `postgres` does; then become the server.
set -euo pipefail

if [[ ! -s $PGDATA/PG_VERSION ]]; then
  initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
    --auth-host=scram-sha-256 --auth-local=trust --encoding=UTF8 --locale=C.UTF-8 --pgdata="$PGDATA"
  # Other machines may come, with the password; until the databases are made none can.
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  pg_ctl --pgdata="$PGDATA" -o "-c listen_addresses='' -c unix_socket_directories=/tmp" -w start
  createdb --host=/tmp --username="$POSTGRES_USER" "$POSTGRES_DB"
  for script in /docker-entrypoint-initdb.d/*.sql; do
    [[ -f $script ]] || continue
    psql --host=/tmp --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" -v ON_ERROR_STOP=1 --file="$script"
  done
  pg_ctl --pgdata="$PGDATA" -m fast -w stop
fi
exec "$@" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
