# What the scripts of a release share. They know their release by where they lie: <airflow_directory>/releases/<id>/libexec.
# shellcheck shell=bash
set -euo pipefail
# On a hardened host, who logs in has one that would keep Airflow's user out.
umask 022

# What root notes of each unit that runs. In the unit's own directory, a task could plant links there for root to follow.
notes=${LVAO_NOTES:-/run/lvao-airflow}

# One script at a time: the host may return to another release by itself while a deploy still works on it. The lock is root's, or a
# task could hold it. Without the lock, nothing goes on.
hold_the_lock() {
  local lock=$notes/lock
  install --directory "$notes"
  umask 077
  exec 9>>"$lock"
  umask 022
  if ! flock --nonblock 9; then
    echo "${0##*/} waits for $(cat "$lock")" >&2
    flock --timeout "${LVAO_LOCK_SECONDS:-600}" 9 || { echo "${0##*/} gives up: $(cat "$lock") still has the host's lock" >&2; exit 1; }
  fi
  echo "$0, process $$, since $(date --utc +%FT%TZ)" >"$lock"
  export LVAO_LOCKED=true
}
if [ -z "${LVAO_LOCKED-}" ]; then hold_the_lock; fi

release=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
directory=$(realpath "$release/../..")
current=$directory/current
secrets=$directory/secrets
units=/etc/systemd/system

# Renamed over what is there: at every moment there is a whole link.
point() { # link, to what
  ln --symbolic --force --no-target-directory "$2" "$1.new"
  mv --force --no-target-directory "$1.new" "$1"
}

same_secrets() { [ -z "${LVAO_SECRETS-}" ] || [ "$LVAO_SECRETS" -ef "$secrets/current" ]; }

live_scheduler() {
  local unit
  unit=$(readlink "$units/lvao-airflow-scheduler.service" || echo lvao-airflow-scheduler-a.service)
  echo "${unit%.service}"
}

# `switch` installs the units of a release, and then moves the link to it: it may have died in between.
has_its_units() {
  local unit
  for unit in "$current"/systemd/*; do cmp --silent "$unit" "$units/${unit##*/}" || return; done
}

busy() { [[ $(systemctl show --property=ActiveState --value "$1") == @(active|deactivating) ]]; }

# Whether a scheduler has had a heartbeat: 0 if so, 69 if it has none, 75 if nobody can tell. Its own status names its row in the
# database's table of jobs; one that has no row long after its start hangs.
heartbeat() { # unit, seconds
  local job started
  # That of a release from before says no row.
  [ -e "$directory/schedulers/$1/libexec/settle.py" ] || return 75
  job=$(systemctl show --property=StatusText --value "$1" | sed --quiet 's/.*\[job \([0-9]*\)\]$/\1/p')
  if [ -z "$job" ]; then
    started=$(systemctl show --property=ActiveEnterTimestampMonotonic --value "$1")
    awk -v started="$started" -v patience="$(($2 + 300))" '{exit ($1 - started / 1e6 > patience) ? 69 : 75}' /proc/uptime
    return
  fi
  LVAO_PROBE=true LVAO_PROGRAM=python LVAO_QUIET=true timeout 60 "$release/bin/airflow" "$release/libexec/heartbeat.py" "$job" "$2" >/dev/null 2>&1
}

# Whether a scheduler that runs has been without a heartbeat: after a database that was away for long, or by a fault, its loop has
# ended or hangs. It stays for its tasks, and schedules none. Where nobody can tell, it has one.
stalls() { # unit, seconds
  local status=0
  systemctl is-active --quiet "$1" || return
  heartbeat "$1" "$2" || status=$?
  [ $status = 69 ]
}

# Whether another scheduler has to take its place: what began with it may have died, and it with its notes, too.
is_relieved() { [ "${LVAO_RELIEVES-}" = "$1" ] || [ "$(cat "$notes/relief" 2>/dev/null)" = "$1" ]; }

# Tells a scheduler to finish its tasks and end, however long they take.
retire() {
  [ ! -d "$notes/$1" ] || touch "$notes/$1/retired"
  systemctl stop --no-block "$1"
}

# Whether one that was told to end takes nothing new: then it ignores the signal, as drain.py knows, too.
has_heard() {
  local ignored
  ignored=$(sed --quiet 's/^SigIgn:\s*/0x/p' "/proc/$(systemctl show --property=MainPID --value "$1")/status" 2>/dev/null) || return 0
  ((ignored & 0x4000))
}

# `base` is a digest of what a unit must be restarted for: packages and configuration. Each unit keeps that of its start, and
# a link to its secrets.
runs_what_is_current() {
  systemctl is-active --quiet "$1" && cmp --silent "$current/base" "$notes/$1/base" && [ "$(readlink "$notes/$1/secrets")" = "$(readlink "$secrets/current")" ] &&
    ! runs_what_was_upgraded "$1"
}

# Whether it still runs a library of Debian's that is no longer there. A unit in root's sandbox cannot tell, and has not to.
runs_what_was_upgraded() { grep --quiet ' /usr/.* (deleted)$' "/proc/$(systemctl show --property=MainPID --value "$1")/maps" 2>/dev/null; }
