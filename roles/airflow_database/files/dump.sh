# Dumps the database that libpq's variables name, through a command that may encrypt it: no clear copy lies on the disk then.
# Arguments: the dump's path, then the command. The password comes on standard input, for a process list to show no secret.
set -euo pipefail
umask 077
target=$1
shift
IFS= read -r PGPASSWORD
export PGPASSWORD
folder=$(dirname "$target")
# Of a deploy that died amid a dump. One that still goes on does not get its name then.
rm --force "$folder"/.unfinished*
# Under its name only once it is whole.
unfinished=$folder/.unfinished-$(basename "$target")
pg_dump --no-password --format=custom | "$@" >"$unfinished"
mv "$unfinished" "$target"
